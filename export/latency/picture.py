"""Pictures of a measured table: what n groups cost against n times one, and how whole networks compare with it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bmtas.errors import UsageError
from bmtas.extras import require
from bmtas.files import atomic_path
from costs.table import CostTable
from costs.units import Resource, format_quantity
from export.latency.fit import Network

_DOTS_PER_INCH = 120


def draw_table(table: CostTable, networks: Mapping[Resource, Sequence[Network]], path: Path) -> None:
    """Draw for each measured resource the cost of 2..T groups over that many times one, per layer; and whole networks as measured over
    as predicted, by the table and by multiply-adds alone.

    Raises UsageError if nothing of the table was measured or the file is no .png, EnvironmentProblem where matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture {path}: the picture is a PNG; give it a name that ends in .png")
    resources = [r for r in table.resources() if r in table.measured]
    if not resources:
        raise UsageError(
            "nothing in this table was measured, so there is nothing to draw; `bmtas profile --latency` measures one"
        )
    figure = require("matplotlib.figure", "train").Figure(figsize=(11, 4.2 * len(resources)), layout="constrained")
    axes = figure.subplots(len(resources), 2, squeeze=False)
    for row, resource in enumerate(resources):
        _groups(axes[row][0], table, resource)
        _networks(axes[row][1], networks.get(resource, ()), resource)
    about = table.measured[resources[0]]
    where = about.device.get("title") or "unknown device"
    threads = f", {about.threads} thread{'s' if about.threads > 1 else ''}" if about.threads else ""
    height, width = table.input_size
    figure.suptitle(
        f"{table.backbone}, {height}x{width}, {about.precision}, {about.runtime}{threads}: {where}", fontsize=10
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")


def _groups(axis: Any, table: CostTable, resource: Resource) -> None:
    costs = table.count_costs(resource)
    for groups in range(2, costs.shape[1] + 1):
        shares = costs[:, groups - 1] / (groups * costs[:, 0])
        axis.plot(range(len(shares)), shares, marker=".", linewidth=1, label=f"{groups} groups")
    axis.axhline(1.0, color="0.5", linewidth=0.8)
    axis.set_xlabel("layer")
    axis.set_xticks(range(0, len(costs), 2))
    axis.set_ylabel(f"{resource.label.lower()} of n groups / (n x one group)")
    axis.set_title("below 1: groups side by side cost less than one after the other", fontsize=9)
    axis.grid(visible=True, linewidth=0.3)
    axis.legend(fontsize=8)


def _networks(axis: Any, networks: Sequence[Network], resource: Resource) -> None:
    unit = format_quantity(1.0, resource).split()[-1]
    trees = [n for n in networks if n.role != "separate"]
    for role, marker in (("held_out", "o"), ("fit", "x"), ("anchor", "s")):
        chosen = [n for n in trees if n.role == role]
        name = {"held_out": "held out", "fit": "fitted to", "anchor": "all shared"}[role]
        axis.plot(
            [n.measured for n in chosen], [n.predicted for n in chosen], marker, color="C0", markersize=4, label=name
        )
    axis.plot(
        [n.measured for n in trees],
        [n.proportional for n in trees],
        "+",
        color="C1",
        markersize=6,
        label="by MAdds alone",
    )
    if trees:
        ends = [f(n.measured for n in trees) for f in (min, max)]
        axis.plot(ends, ends, color="0.5", linewidth=0.8)
        axis.fill_between(ends, [0.95 * e for e in ends], [1.05 * e for e in ends], color="0.9", label="within 5 %")
    axis.set_xlabel(f"measured {unit}")
    axis.set_ylabel(f"predicted {unit}")
    axis.grid(visible=True, linewidth=0.3)
    axis.legend(fontsize=8)

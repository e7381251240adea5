"""Delta_m over cost for all networks of a comparison, as in the paper's figure 2. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bmtas.comparison import Comparison, Row
from bmtas.errors import UsageError
from bmtas.extras import require
from bmtas.files import atomic_path
from costs.units import Resource, unit_scale

_DOTS_PER_INCH = 120
_MARKERS = "os^Dv<>ph*X"
_SCALES = (1e9, 1e6, 1e3, 1.0)


def axis_scale(most: float, resource: Resource) -> tuple[float, str]:
    """Return what to divide costs up to `most` by on one axis, and its unit with the prefix."""
    counted = resource in (Resource.MADDS, Resource.PARAMS)
    # One tenth still reads well: 0.1 GMAdds.
    scale = next(s for s in _SCALES if most >= s / 10 or s == 1.0) if counted else 1.0
    return unit_scale(scale, resource)


def draw_pareto(
    comparison: Comparison, path: Path, resource: Resource = Resource.MADDS, front: Sequence[Row] = ()
) -> None:
    """Draw a point per row: its cost and Delta_m, with the deviation over seeds; rows of one method are joined by a line.

    The rows of `front`, the cheapest first, have a dashed staircase through them: left of and above it there is no point.

    Raises UsageError if no row has a Delta_m or the file is no .png, EnvironmentProblem where matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture {path}: the picture is a PNG; give it a name that ends in .png")
    series: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if row.delta_m_percent is not None and resource.value in row.costs:
            name = f"{row.label} ({row.backbone})" if comparison.several_backbones else row.label
            series.setdefault(name, []).append(row)
    if not series:
        raise UsageError(
            "no network has a Delta_m, so there is nothing to draw; it needs single-task networks: `bmtas search --method single`, "
            "then `bmtas train`"
        )
    figure = require("matplotlib.figure", "train").Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    # Ten colours by default, which repeat; twenty tell more series apart.
    axis.set_prop_cycle(
        color=require("matplotlib", "train").colormaps["tab10" if len(series) <= 10 else "tab20"].colors
    )
    most = max(row.costs[resource.value].mean for rows in series.values() for row in rows)
    scale, unit = axis_scale(most, resource)
    for number, (name, rows) in enumerate(series.items()):
        ordered = sorted(rows, key=lambda row: row.costs[resource.value].mean)
        gains = [row.delta_m_percent for row in ordered if row.delta_m_percent is not None]
        axis.errorbar(
            [row.costs[resource.value].mean / scale for row in ordered],
            [gain.mean for gain in gains],
            yerr=[gain.deviation or 0.0 for gain in gains],
            marker=_MARKERS[number % len(_MARKERS)],
            capsize=3,
            linewidth=1,
            label=name,
        )
    if front:
        axis.step(
            [row.costs[resource.value].mean / scale for row in front],
            [row.delta_m_percent.mean for row in front if row.delta_m_percent is not None],
            where="post",
            color="black",
            linestyle="--",
            linewidth=0.8,
            label="front",
        )
    axis.set_xlabel(unit)
    axis.set_ylabel("Delta_m %")
    axis.grid(visible=True, linewidth=0.3)
    axis.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")

"""How `bmtas profile` shows a measured table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from costs.measurement import MOST_ERROR
from costs.units import Resource, format_quantity

if TYPE_CHECKING:
    from costs.table import CostTable
    from export.latency.fit import Network

_ROLES = {"anchor": "all shared", "separate": "separate networks", "fit": "fitted to", "held_out": "held out"}


def measured_view(table: CostTable, resource: Resource) -> Any:
    """Return what each layer costs with 1..T groups, and the fixed parts."""
    from rich.table import Table

    height, width = table.input_size
    about = table.measured.get(resource)
    how = "" if about is None else f", {about.precision}, {about.runtime}, {about.provider}"
    threads = (
        "" if about is None or not about.threads else f", {about.threads} thread{'s' if about.threads > 1 else ''}"
    )
    view = Table(title=f"{resource.label}: {table.backbone}, {height}x{width}{how}{threads}")
    view.add_column("layer")
    counts = range(1, len(table.tasks) + 1)
    for groups in counts:
        view.add_column(f"{groups} group{'s' if groups > 1 else ''}", justify="right", no_wrap=True)
    costs = table.count_costs(resource)
    for layer, row in zip(table.layers, costs, strict=True):
        view.add_row(layer.name, *(format_quantity(float(cost), resource) for cost in row))
    view.add_section()
    for part in table.fixed:
        view.add_row(part.name, format_quantity(part.cost[resource], resource))
    return view


def networks_view(networks: Sequence[Network], resource: Resource) -> Any:
    """Return whole networks: measured, and as the table and multiply-adds alone predict them."""
    from rich.table import Table

    view = Table(title="whole networks, measured in turn with the parts")
    for name in ("network", "groups"):
        view.add_column(name)
    for name in ("measured", "table", "off", "by MAdds", "off"):
        view.add_column(name, justify="right", no_wrap=True)
    for network in sorted(networks, key=lambda n: (list(_ROLES).index(n.role), n.measured)):
        measured = network.measured
        cells = [format_quantity(measured, resource, digits=4)]
        for value in (network.predicted, network.proportional):
            cells += [format_quantity(value, resource, digits=4), f"{value / measured - 1:+.1%}"]
        view.add_row(_ROLES[network.role], _runs(network.group_counts), *cells)
    return view


def _runs(counts: Sequence[int]) -> str:
    """Return numbers of groups layer by layer in short: `1x6 2x12` for six layers of one group and twelve of two."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    return " ".join(f"{count}x{length}" for count, length in runs)


def trusted(table: CostTable) -> bool:
    """Return whether budgets are kept by the table."""
    return all(about.held_out.median_error <= MOST_ERROR for about in table.measured.values())


def verdict(table: CostTable, resource: Resource) -> list[str]:
    """Return in words what the table is worth."""
    about = table.measured.get(resource)
    if about is None:
        return [f"the table does not tell how its {resource.label.lower()} was measured"]
    found = about.held_out
    low, high = found.median_interval
    error = (
        f"{found.networks} networks that the table was not fitted to: median error {found.median_error:.1%} (95 % interval {low:.1%} to "
        f"{high:.1%}), worst {found.worst_error:.1%}; in proportion to MAdds: median {found.proportional_median_error:.1%}, worst "
        f"{found.proportional_worst_error:.1%}"
    )
    lines = [
        error,
        f"device: {about.device.get('title')}; at least {about.samples} runs of each part; medians known to {about.spread:.1%}",
    ]
    lines += [
        (
            f"since then: a network was measured to take {format_quantity(correction.upper, resource, digits=4)} at most, the table said "
            f"{format_quantity(correction.predicted, resource, digits=4)}; all costs were multiplied by {correction.factor:.3f}"
        )
        for correction in about.corrections
    ]
    if about.margin > 1:
        lines.append(f"costs are {about.margin - 1:.1%} higher than that, a margin for a device that is not at hand")
    if found.median_error > MOST_ERROR:
        lines.append(f"over {MOST_ERROR:.0%}: no budget is kept by this table; measure again with nothing else running")
    return lines

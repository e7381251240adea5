"""The picture of a tree: which tasks share which layers, each layer as wide as it is dear. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from bmtas.architecture import BranchedArchitecture
from bmtas.extras import require
from bmtas.files import atomic_path
from bmtas.tables import column_label
from costs.table import CostTable
from costs.units import Resource, format_quantity

_DOTS_PER_INCH = 120
_LEAST_WIDTH = 0.012  # of the picture's width: a layer that costs next to nothing is still to be seen
_GAP = 0.12  # of a row, between two groups


def row_order(architecture: BranchedArchitecture) -> list[str]:
    """Return the tasks in an order in which every group of every layer stands together."""
    index = {task: i for i, task in enumerate(architecture.tasks)}

    def path(task: str) -> tuple[int, ...]:
        # Groupings refine each other, so whoever parts first is sorted apart first.
        return tuple(
            min(index[other] for other in block)
            for grouping in architecture.groupings
            for block in grouping
            if task in block
        )

    return sorted(architecture.tasks, key=lambda task: (*path(task), index[task]))


def layer_widths(table: CostTable, resource: Resource) -> list[float]:
    """Return the share of each layer in the cost of all layers computed once, sums to 1."""
    costs = [table.layer_cost(index, [list(range(len(table.tasks)))], resource) for index in range(len(table.layers))]
    whole = sum(costs)
    return [cost / whole if whole else 1 / len(costs) for cost in costs]


def draw_tree(
    architecture: BranchedArchitecture, table: CostTable, path: Path, resource: Resource = Resource.MADDS
) -> None:
    """Draw the tree: a column per layer, as wide as what one group of it costs, a band per group, a line per task.

    Raises EnvironmentProblem where matplotlib is not installed.
    """
    order = row_order(architecture)
    rows = {task: len(order) - 1 - i for i, task in enumerate(order)}
    colours = {task: f"C{i % 10}" for i, task in enumerate(architecture.tasks)}
    widths = [max(width, _LEAST_WIDTH) for width in layer_widths(table, resource)]
    figure = require("matplotlib.figure", "train").Figure(figsize=(10, 0.45 * len(order) + 1.6), layout="constrained")
    axis = figure.subplots()
    rectangle = require("matplotlib.patches", "train").Rectangle
    left, ticks = 0.0, []
    for width, grouping in zip(widths, architecture.groupings, strict=True):
        for block in grouping:
            low = min(rows[task] for task in block) - 0.5 + _GAP
            height = len(block) - 2 * _GAP
            face = "0.85" if len(block) > 1 else "0.95"
            axis.add_patch(rectangle((left, low), width, height, facecolor=face, edgecolor="0.4", linewidth=0.7))
            for task in block:
                axis.plot([left, left + width], [rows[task]] * 2, color=colours[task], linewidth=2.5)
        ticks.append(left + width / 2)
        left += width
    axis.set_xlim(-0.002 * left, 1.002 * left)  # the outer borders are seen in full
    axis.set_ylim(-0.7, len(order) - 0.3)
    axis.set_yticks([rows[task] for task in order], order)
    axis.tick_params(axis="y", right=True, labelright=True, left=False, labelleft=False)
    axis.set_xticks(ticks, [str(i) for i in range(len(ticks))], fontsize="x-small")
    axis.set_xlabel(f"layer, as wide as one group's {column_label(resource)}")
    cost = table.architecture_cost(architecture.task_indices, resource)
    axis.set_title(f"{architecture.backbone}: {format_quantity(cost, resource)}", fontsize="medium")
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH)

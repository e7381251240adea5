"""The parts of a tree: what is computed once, for whom, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from bmtas.architecture import BranchedArchitecture
from bmtas.graph import head_name
from costs.table import CostTable
from costs.units import Resource, format_quantity
from export.report.blocks import Cell, Table, cells
from export.report.words import listed, span_text


@dataclass(frozen=True)
class Part:
    """What `tasks` compute together: a span of layers, the stem or a head. `column` is its place from left to right.

    `cost` is that of computing it once, `layer_costs` that of each of its layers; None and empty where one group has no cost of its own.
    """

    column: int
    label: str
    tasks: tuple[str, ...]
    cost: float | None
    layer_costs: tuple[float, ...] = ()


def scale_resource(table: CostTable) -> Resource | None:
    """Return the resource to whose scale layers are drawn, the first of which one group has a cost of its own; MAdds if known."""
    return next((r for r in table.resources() if table.dependence(r) == "groups_proportional"), None)


def parts_of(tree: BranchedArchitecture, table: CostTable, resource: Resource | None) -> list[Part]:
    """Return the parts from left to right: the stem, the groups of each span of layers between two partings, the heads."""

    def cost(name: str) -> float | None:
        return None if resource is None else table.operation_cost(name, resource)

    spans: list[tuple[int, int]] = []
    for layer, grouping in enumerate(tree.groupings):
        if spans and tree.groupings[spans[-1][0]] == grouping:
            spans[-1] = (spans[-1][0], layer)
        else:
            spans.append((layer, layer))
    stems = [tree.tasks] if tree.shared_stem else [(task,) for task in tree.tasks]
    parts = [Part(0, "stem", tasks, cost("stem")) for tasks in stems]
    for column, (first, last) in enumerate(spans, start=1):
        each = [cost(table.layers[i].name) for i in range(first, last + 1)]
        known = tuple(value for value in each if value is not None)
        total = sum(known) if resource is not None else None
        parts += [Part(column, span_text(first, last), block, total, known) for block in tree.groupings[first]]
    heads = len(spans) + 1
    return parts + [Part(heads, f"head {task}", (task,), cost(head_name(task))) for task in tree.tasks]


def tree_table(tree: BranchedArchitecture, table: CostTable) -> Table:
    """Return the parts in words, a row per part."""
    resource = scale_resource(table)
    rows = []
    for part in parts_of(tree, table, resource):
        who = Cell(listed(part.tasks, tree.tasks), tuple(tree.tasks.index(task) for task in part.tasks))
        cost = "" if part.cost is None or resource is None else format_quantity(part.cost, resource)
        rows.append(cells(part.label, who, cost))
    return Table("Who computes what together", ("part", "tasks", "cost, once"), tuple(rows), frozenset((0, 1)))


def sharing_table(tree: BranchedArchitecture) -> Table:
    """Return how many layers each two tasks share."""
    layers = len(tree.groupings)
    rows = []
    for i, a in enumerate(tree.tasks):
        shared = [None if a == b else tree.shared_depth(a, b) for b in tree.tasks]
        told = (Cell("" if n is None else str(n), share=None if n is None else n / layers) for n in shared)
        rows.append(cells(Cell(a, (i,)), *told))
    return Table(f"Layers that two tasks share, of {layers}", ("task", *tree.tasks), tuple(rows))

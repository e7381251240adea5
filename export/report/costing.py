"""What the network found costs, by layer and by task."""

from __future__ import annotations

from collections.abc import Sequence

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.graph import Node
from bmtas.tables import column_label
from costs.table import CostTable
from costs.units import Resource, format_quantity
from export.report.blocks import Block, Cell, Details, Remark, Table, cells
from export.report.gather import Material
from export.report.tree import scale_resource
from export.report.words import ABSENT, listed, quantity


def cost_blocks(told: Material, architecture: Architecture) -> list[Block]:
    """Return the tables by task and by layer of the network found."""
    table, resource = told.table, scale_resource(told.table)
    blocks: list[Block] = [_networks(told)]
    if resource is None:
        blocks.append(Remark("By task nothing can be told: the cost table has no cost of a single group.", "muted"))
    else:
        blocks.append(_by_task(architecture, table, resource))
    if isinstance(architecture, BranchedArchitecture):
        by_layer = _by_layer(architecture, table)
        summary = f"Cost of each of the {len(table.layers)} layers, the stem and the heads"
    else:
        by_layer = _by_operation(architecture, table)
        summary = f"Cost of each of the {len(by_layer.rows)} operations"
    return [*blocks, Details(summary, (by_layer,))]


def _networks(told: Material) -> Table:
    """Return the costs of all networks of the run in all resources of its table."""
    resources = [r for r in Resource if any(n.costs and r.value in n.costs for n in told.networks)]
    budgets = {b.resource: b for b in told.budgets}
    rows = []
    for network in told.networks:
        costs = network.costs or {}
        texts = [quantity(costs.get(r.value), r) for r in resources]
        rows.append(cells(Cell(network.name, strong=network.name == "found"), *texts))
    if budgets:
        rows.append(cells("budget", *(budgets[r].text if r in budgets else ABSENT for r in resources)))
    return Table("Costs of one pass at the deployed size", ("network", *map(column_label, resources)), tuple(rows))


def _by_task(architecture: Architecture, table: CostTable, resource: Resource) -> Table:
    """Return for each task what is computed for it alone, and what it shares; the two make up the network of this task alone."""
    nodes = architecture.graph(0).nodes
    whole = _sum(nodes, table, resource)
    rows = []
    for i, task in enumerate(architecture.tasks):
        own = _sum([node for node in nodes if node.tasks == (task,)], table, resource)
        shared = _sum([node for node in nodes if task in node.tasks and len(node.tasks) > 1], table, resource)
        rows.append(
            cells(
                Cell(task, (i,)),
                Cell(format_quantity(own, resource), share=own / whole),
                Cell(format_quantity(shared, resource), share=shared / whole),
                Cell(format_quantity(own + shared, resource), share=(own + shared) / whole),
            )
        )
    together = _sum([node for node in nodes if len(node.tasks) > 1], table, resource)
    parts = (format_quantity(whole - together, resource), format_quantity(together, resource))
    rows.append(cells(Cell("the network", strong=True), *parts, format_quantity(whole, resource)))
    head = ("task", "for it alone", "shared with others", "a network of this task alone")
    return Table(f"{column_label(resource)} by task; what is shared is in several rows", head, tuple(rows))


def _sum(nodes: Sequence[Node], table: CostTable, resource: Resource) -> float:
    return sum(table.operation_cost(node.operation, resource) for node in nodes)


def _by_layer(tree: BranchedArchitecture, table: CostTable) -> Table:
    """Return a row per layer: its groups, and what they cost together."""
    resources = [r for r in table.resources() if not r.is_peak]
    names = tree.tasks
    stems = 1 if tree.shared_stem else len(names)
    rows: list[tuple[str, str, str, list[float]]] = []
    for part in table.fixed:
        copies = stems if part.shared else 1
        who = listed(part.tasks, names) if copies == 1 else "each alone"
        rows.append((part.name, str(copies), who, [copies * part.cost[r] for r in resources]))
    first_head = next((i for i, row in enumerate(rows) if row[0].startswith("heads.")), len(rows))
    layers = [
        (
            layer.name,
            str(len(grouping)),
            " | ".join(listed(block, names) for block in grouping),
            [table.layer_cost(i, tree.task_indices[i], r) for r in resources],
        )
        for i, (layer, grouping) in enumerate(zip(table.layers, tree.groupings, strict=True))
    ]
    rows[first_head:first_head] = layers
    most = [max(row[3][i] for row in rows) or 1.0 for i in range(len(resources))]
    return Table(
        "Parts of the network found, in the order in which they are computed",
        ("part", "copies", "for whom", *map(column_label, resources)),
        tuple(
            cells(
                name,
                copies,
                who,
                *(Cell(format_quantity(v, r), share=v / m) for v, r, m in zip(values, resources, most, strict=True)),
            )
            for name, copies, who, values in rows
        ),
        frozenset((0, 2)),
    )


def _by_operation(architecture: Architecture, table: CostTable) -> Table:
    """Return a row per operation of a network that is no tree: how often it is computed, for whom, and at what cost."""
    groups: dict[str, list[Node]] = {}
    for node in architecture.graph(0).nodes:
        groups.setdefault(node.operation, []).append(node)
    costs = {name: _sum(nodes, table, Resource.MADDS) for name, nodes in groups.items()}
    most = max(costs.values()) or 1.0
    return Table(
        "Operations of the network found, in the order in which they first occur",
        ("operation", "computed", "for whom", "MAdds in all"),
        tuple(
            cells(
                name,
                f"{len(nodes)} times" if len(nodes) > 1 else "once",
                " | ".join(dict.fromkeys(listed(node.tasks, architecture.tasks) for node in nodes)),
                Cell(format_quantity(costs[name], Resource.MADDS), share=costs[name] / most),
            )
            for name, nodes in groups.items()
        ),
        frozenset((0, 2)),
    )

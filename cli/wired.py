"""The view of a network that is no tree: what is computed for which tasks. Needs no PyTorch."""

from __future__ import annotations

from typing import Any


def wired_view(architecture: Any, table: Any) -> Any:
    """Return a table: for each set of tasks, how many operations are computed for exactly these, and what they cost."""
    from rich.table import Table

    from costs.units import Resource, format_quantity

    graph = architecture.merged
    copies: dict[str, set[tuple[str, ...]]] = {}
    for node in graph.nodes:
        copies.setdefault(node.module, set()).add(node.tasks)
    sets: dict[tuple[str, ...], list[Any]] = {}
    for node in graph.nodes:
        sets.setdefault(node.tasks, []).append(node)
    view = Table(title=f"{architecture.backbone}, what is computed for whom")
    for name in ("for the tasks", "operations", "MAdds", "weights also used for other tasks"):
        view.add_column(name, justify="left" if name == "for the tasks" else "right")
    for tasks in sorted(sets, key=lambda names: (-len(names), [architecture.tasks.index(n) for n in names])):
        nodes = sets[tasks]
        madds = sum(table.operation_cost(node.operation, Resource.MADDS) for node in nodes)
        elsewhere = sum(len(copies[node.module]) > 1 and node.module != node.operation for node in nodes)
        who = "all" if len(tasks) == len(architecture.tasks) > 1 else " + ".join(tasks)
        view.add_row(who, str(len(nodes)), format_quantity(madds, Resource.MADDS), str(elsewhere))
    return view

"""The view of a network that is no tree: what is computed for which tasks. Needs no PyTorch."""

from __future__ import annotations

from typing import Any


def wired_view(architecture: Any, table: Any) -> Any:
    """Return a table: for each set of tasks, how many operations are computed for exactly these, and what they cost."""
    from rich.table import Table

    from bmtas.wired import computed_for
    from costs.units import Resource, format_quantity

    view = Table(title=f"{architecture.backbone}, what is computed for whom")
    for name in ("for the tasks", "operations", "MAdds", "weights also used for other tasks"):
        view.add_column(name, justify="left" if name == "for the tasks" else "right")
    for part in computed_for(architecture, table):
        who = "all" if len(part.tasks) == len(architecture.tasks) > 1 else " + ".join(part.tasks)
        madds = format_quantity(part.madds, Resource.MADDS)
        view.add_row(who, str(part.operations), madds, str(part.weights_shared))
    return view

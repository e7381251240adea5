"""A network that is no tree, as a picture: for each set of tasks, what is computed for exactly these."""

from __future__ import annotations

from bmtas.architecture import WiredArchitecture
from bmtas.wired import computed_for
from costs.table import CostTable
from costs.units import Resource, format_quantity
from export.report.blocks import Cell, Drawing, Table, cells
from export.report.svg import Svg, task_style, text_width
from export.report.words import listed

_WIDTH, _ROW, _TOP = 920.0, 40.0, 34.0
_COLUMN = 74.0


def draw_wired(identifier: str, architecture: WiredArchitecture, table: CostTable) -> Drawing:
    """Return a row per set of tasks: a disc under each task of the set, and a bar as long as the multiply-adds computed for it."""
    parts = computed_for(architecture, table)
    tasks = architecture.tasks
    columns = [max(_COLUMN if len(tasks) <= 6 else 46.0, text_width(name) + 12) for name in tasks]
    left = sum(columns) + 16
    told = "; ".join(f"{listed(p.tasks, tasks)}: {format_quantity(p.madds, Resource.MADDS)}" for p in parts)
    svg = Svg(
        identifier,
        max(_WIDTH, left + 360),
        _TOP + _ROW * len(parts) + 6,
        f"The network found, {architecture.backbone}: what is computed for which tasks",
        told,
    )
    centres = [sum(columns[:i]) + width / 2 for i, width in enumerate(columns)]
    for centre, name in zip(centres, tasks, strict=True):
        svg.text(centre, 18, name, "ink strong", "middle")
    scale = (svg.width - left - 230) / max(part.madds for part in parts)
    for number, part in enumerate(parts):
        y = _TOP + _ROW * number + _ROW / 2
        places = [tasks.index(name) for name in part.tasks]
        svg.line(centres[places[0]], y, centres[places[-1]], y, "joins")
        for i, centre in enumerate(centres):
            style = f"{task_style(i)} outlined" if i in places else "hollow"
            svg.circle(centre, y, 8 if i in places else 3, style)
        length = max(3.0, part.madds * scale)
        height = 20 / len(places)
        for stripe, i in enumerate(places):
            svg.rect(left, y - 10 + height * stripe, length, height, task_style(i))
        svg.rect(left, y - 10, length, 20, "box")
        text = f"{format_quantity(part.madds, Resource.MADDS)}, {_operations(part.operations)}"
        svg.text(left + length + 8, y + 4.5, text, "ink")
    return Drawing(
        svg.markup(),
        "Each row is what is computed for exactly the tasks with a disc, and for no other; its bar is as long as its MAdds. "
        "The rows add up to the network.",
    )


def wired_table(architecture: WiredArchitecture, table: CostTable) -> Table:
    """Return the same in words, with how many operations use weights that are applied for other tasks, too."""
    rows = []
    for part in computed_for(architecture, table):
        who = Cell(listed(part.tasks, architecture.tasks), tuple(architecture.tasks.index(name) for name in part.tasks))
        madds = format_quantity(part.madds, Resource.MADDS)
        rows.append(cells(who, str(part.operations), madds, str(part.weights_shared)))
    head = ("computed for", "operations", "MAdds", "with weights used for other tasks, too")
    return Table("What is computed for whom", head, tuple(rows))


def _operations(count: int) -> str:
    return "1 operation" if count == 1 else f"{count} operations"

"""The tree as a picture: every group of tasks that computes layers together is a box as long as what one group of them costs.

All boxes are equally high, so the area of all is the cost of the network; the stripes of a box are its tasks.
"""

from __future__ import annotations

from bmtas.architecture import BranchedArchitecture
from bmtas.plots_tree import row_order
from costs.table import CostTable
from costs.units import Resource, format_quantity
from export.report.blocks import Drawing
from export.report.svg import Svg, task_style, text_width
from export.report.tree import Part, parts_of, scale_resource
from export.report.words import listed

_WIDTH, _LEFT, _TOP = 920.0, 6.0, 6.0
_ROW, _BOX = 58.0, 28.0
_LEAST = 3.0
"""Pixels that a box is long at least, so that it is seen."""
_GAP, _GAPS = 28.0, 260.0
"""Between two columns, and between all of them together at most."""


def draw_tree(identifier: str, tree: BranchedArchitecture, table: CostTable) -> Drawing:
    """Return the picture of `tree`. Lengths are to scale, but for boxes too short to be seen."""
    resource = scale_resource(table)
    picture = _Picture(identifier, tree, table, resource)
    picture.draw()
    if resource is None:
        told = "The cost table states no cost of a single group, so lengths mean nothing."
    else:
        told = f"Its length is its cost in {resource.label}, so the area of all boxes is the cost of the network."
    return Drawing(picture.svg.markup(), f"Each box is computed once, for the tasks whose stripes it has. {told}")


class _Picture:
    """The parts of a tree with their places: `starts` by column, `lengths` and `middles` by (column, tasks), in pixels."""

    def __init__(
        self, identifier: str, tree: BranchedArchitecture, table: CostTable, resource: Resource | None
    ) -> None:
        self.tree, self.resource = tree, resource
        self.parts = parts_of(tree, table, resource)
        self.order = row_order(tree)
        self.columns = max(part.column for part in self.parts) + 1
        self._place()
        self.svg = Svg(
            identifier,
            _WIDTH,
            _TOP + _ROW * len(self.order),
            f"The network found, {tree.backbone}: which tasks share which layers",
            self._described(),
        )

    def _place(self) -> None:
        right = max(text_width(name) for name in self.order) + 24
        gap = min(_GAP, _GAPS / self.columns)
        by_column = [[part for part in self.parts if part.column == c] for c in range(self.columns)]
        whole = sum(max(part.cost or 0.0 for part in column) for column in by_column)
        usable = _WIDTH - _LEFT - right - gap * (self.columns - 1) - _LEAST * self.columns
        self.starts: list[float] = []
        self.lengths: dict[tuple[int, tuple[str, ...]], float] = {}
        self.middles: dict[tuple[int, tuple[str, ...]], float] = {}
        x = _LEFT
        for column in by_column:
            self.starts.append(x)
            for part in column:
                length = usable * (part.cost or 0.0) / whole if whole else usable / self.columns
                rows = [self.order.index(task) for task in part.tasks]
                self.lengths[part.column, part.tasks] = max(_LEAST, length)
                self.middles[part.column, part.tasks] = _TOP + _ROW * (0.6 + sum(rows) / len(rows))
            x += max(self.lengths[part.column, part.tasks] for part in column) + gap

    def draw(self) -> None:
        """Draw the ways of the tasks, the boxes over them, and names beside the heads."""
        for part in self.parts:
            if part.column:
                self._ways(part)
        for part in self.parts:
            self._box(part)
            self._label(part)
        last = self.columns - 1
        for task in self.order:
            end = self.starts[last] + self.lengths[last, (task,)]
            self.svg.text(end + 8, self.middles[last, (task,)] + 4.5, task, "ink strong")

    def _described(self) -> str:
        told = []
        for part in self.parts:
            cost = "" if self.resource is None else f", {format_quantity(part.cost or 0.0, self.resource)}"
            told.append(f"{part.label}: {listed(part.tasks, self.tree.tasks)}{cost}")
        return "; ".join(told)

    def _colour(self, task: str) -> str:
        return task_style(self.tree.tasks.index(task))

    def _stripe(self, part: Part, task: str) -> tuple[float, float]:
        """Return the upper and the lower end of the stripe of a task."""
        height = _BOX / len(part.tasks)
        place = sorted(part.tasks, key=self.order.index).index(task)
        top = self.middles[part.column, part.tasks] - _BOX / 2 + height * place
        return top, top + height

    def _ways(self, part: Part) -> None:
        """Draw the way of each task from the part before into this one."""
        before = next(p for p in self.parts if p.column == part.column - 1 and set(part.tasks) <= set(p.tasks))
        x1 = self.starts[before.column] + self.lengths[before.column, before.tasks]
        x2 = self.starts[part.column]
        bend = (x1 + x2) / 2
        for task in part.tasks:
            (top1, low1), (top2, low2) = self._stripe(before, task), self._stripe(part, task)
            there = f"M{x1:.1f} {top1:.1f}C{bend:.1f} {top1:.1f} {bend:.1f} {top2:.1f} {x2:.1f} {top2:.1f}"
            back = f"L{x2:.1f} {low2:.1f}C{bend:.1f} {low2:.1f} {bend:.1f} {low1:.1f} {x1:.1f} {low1:.1f}Z"
            self.svg.path(there + back, f"{self._colour(task)} way")

    def _box(self, part: Part) -> None:
        x, length = self.starts[part.column], self.lengths[part.column, part.tasks]
        middle = self.middles[part.column, part.tasks]
        cost = "" if part.cost is None or self.resource is None else f", {format_quantity(part.cost, self.resource)}"
        tip = f"{part.label}: {listed(part.tasks, self.tree.tasks)}{cost}"
        for task in part.tasks:
            top, low = self._stripe(part, task)
            self.svg.rect(x, top, length, low - top, self._colour(task))
        at = x
        for layer in part.layer_costs[:-1]:
            at += length * layer / part.cost if part.cost else 0.0
            self.svg.line(at, middle - _BOX / 2, at, middle + _BOX / 2, "layer")
        self.svg.rect(x, middle - _BOX / 2, length, _BOX, "box", tip)

    def _label(self, part: Part) -> None:
        """Write above a box what it is and costs, or the cost below it, as far as there is room."""
        length = self.lengths[part.column, part.tasks] + 6
        x, middle = self.starts[part.column], self.middles[part.column, part.tasks]
        name = part.label.split()[0] if part.label.startswith("head") else part.label
        cost = "" if part.cost is None or self.resource is None else format_quantity(part.cost, self.resource)
        both = f"{name} \u00b7 {cost}" if cost else name
        for text in (both, name, name.split()[-1]):
            if text_width(text, small=True) <= length:
                self.svg.text(x, middle - _BOX / 2 - 5, text, "small")
                break
        if text_width(both, small=True) > length >= text_width(cost, small=True):
            self.svg.text(x, middle + _BOX / 2 + 12, cost, "small")

"""What a method's space is to the rest of the house: networks to be counted, drawn and bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from bmtas.architecture import WiredArchitecture
from bmtas.counting import Count
from bmtas.errors import UsageError
from bmtas.networks.operations import Kit, count_operations_of
from costs.table import CostTable
from costs.units import Budget, Resource

COUNTED = (Resource.MADDS, Resource.PARAMS)
"""The resources in which operations of networks that are no trees are counted, and their budgets given."""


class Space(Protocol):
    """All networks that a method can derive for the tasks of a kit on its backbone."""

    def cover(self) -> Iterable[WiredArchitecture]:
        """Yield few networks of the space in which every operation of it occurs."""

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return a network of the space, drawn by chance."""

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return what the cheapest and the dearest network of the space cost, in base units."""

    def check(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        """Raise BudgetError where budgets, each of them within reach, cannot be kept together."""


def with_operations(table: CostTable, space: Space, kit: Kit) -> CostTable:
    """Return the table with the counts of every operation of `space` that it does not know yet, at its input size.

    Raises UsageError where the space has no network of that size: sizes that the backbone rounds down and the method's own
    operations round up do not meet, or give layers and heads other inputs than those that the table has counted.
    """
    parts = {layer.name for layer in table.layers} | {part.name for part in table.fixed}
    counts: dict[str, Count] = {}
    for architecture in space.cover():
        try:
            counts = count_operations_of(architecture.merged, kit.random(), table.input_size, counts)
        except RuntimeError:  # PyTorch's only name for shapes that do not meet
            if _fits(table, kit):
                raise
            raise _refusal(table, kit, architecture, "has feature maps that do not meet") from None
        for name in sorted(parts & set(counts)):
            here, known = counts[name].madds, table.operation_cost(name, Resource.MADDS)
            if here != known:
                what = f"would have {name} work on other feature maps than {kit.backbone.name} alone: {here} multiply-adds, not {known:.0f}"
                raise _refusal(table, kit, architecture, what)
    added = {
        name: {Resource.MADDS: count.madds, Resource.PARAMS: count.params}
        for name, count in counts.items()
        if name not in parts
    }
    return table.model_copy(update={"operations": {**table.operations, **added}})


def _fits(table: CostTable, kit: Kit) -> bool:
    """Say whether the backbone never rounds a side of the table's input size."""
    return all(side % kit.backbone.stride == 0 for side in table.input_size)


def _refusal(table: CostTable, kit: Kit, architecture: WiredArchitecture, what: str) -> UsageError:
    (height, width), stride = table.input_size, kit.backbone.stride
    near = [max(2, round(side / stride)) * stride for side in table.input_size]
    fix = (
        "take another --backbone or --method"
        if _fits(table, kit)
        else f"give sides that are multiples of {stride}, the backbone's output stride, such as --size {near[0]}x{near[1]}"
    )
    return UsageError(
        f"size {height}x{width}: the network of --method {architecture.method} on {kit.backbone.name} {what}; {fix}"
    )

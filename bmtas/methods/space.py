"""What a method's space is to the rest of the house: networks to be counted, drawn and bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from bmtas.architecture import WiredArchitecture
from bmtas.counting import Count
from bmtas.networks.operations import Kit, count_operations_of
from costs.table import CostTable
from costs.units import Resource


class Space(Protocol):
    """All networks that a method can derive for the tasks of a kit on its backbone."""

    def cover(self) -> Iterable[WiredArchitecture]:
        """Yield few networks of the space in which every operation of it occurs."""

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return a network of the space, drawn by chance."""

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return what the cheapest and the dearest network of the space cost, in base units."""


def with_operations(table: CostTable, space: Space, kit: Kit) -> CostTable:
    """Return the table with the counts of every operation of `space` that it does not know yet, at its input size."""
    parts = {layer.name for layer in table.layers} | {part.name for part in table.fixed}
    counts: dict[str, Count] = {}
    for architecture in space.cover():
        counts = count_operations_of(architecture.merged, kit.random(), table.input_size, counts)
    added = {
        name: {Resource.MADDS: count.madds, Resource.PARAMS: count.params}
        for name, count in counts.items()
        if name not in parts
    }
    return table.model_copy(update={"operations": {**table.operations, **added}})

"""A space of one network: what a method without a search is to the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.methods.sharing import cross_stitch, mtan, nddr_cnn, sluice
from bmtas.methods.sharing.settings import Init, Own
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit
from bmtas.tables import architecture_costs
from costs.table import CostTable
from costs.units import Budget, Resource


@dataclass(frozen=True)
class Sharing:
    """One kind of network: how it is wired, and what sets its units' first weights; None where there is one encoder for all tasks."""

    architecture: Callable[[Kit], WiredArchitecture]
    start: Callable[[GraphNetwork], None] | None


NETWORKS = {
    Method.CROSS_STITCH: Sharing(cross_stitch.architecture, cross_stitch.start),
    Method.NDDR_CNN: Sharing(nddr_cnn.architecture, nddr_cnn.start),
    Method.SLUICE: Sharing(sluice.architecture, sluice.start),
    Method.MTAN: Sharing(mtan.architecture, None),
}


@dataclass(frozen=True)
class OneNetwork:
    """The space of one architecture."""

    architecture: WiredArchitecture

    def cover(self) -> Iterable[WiredArchitecture]:
        """Yield the network."""
        yield self.architecture

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return the network; there is nothing to draw."""
        return self.architecture

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return what the network costs, twice. `resource` is MADDS or PARAMS."""
        cost = architecture_costs(table, self.architecture)[resource]
        return cost, cost

    def check(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        """Accept all budgets within reach: it is one network that they are held against."""


def initial(method: Method, own: Mapping[str, Any]) -> Init:
    """Return what the encoders begin from. Raises UsageError where one encoder would be that of several networks."""
    init = Own.model_validate(dict(own)).init
    several = NETWORKS[method].start is not None
    if init is Init.SEPARATE and not several:
        raise UsageError(
            f"--set init=separate: --method {method.value} has one encoder for all tasks, which cannot begin from a network per task; "
            "leave it out"
        )
    return init or (Init.SEPARATE if several else Init.BACKBONE)


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> OneNetwork:
    """Return the space of `method`. Raises UsageError for settings that it cannot have."""
    initial(method, own)
    return OneNetwork(NETWORKS[method].architecture(kit))

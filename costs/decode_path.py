"""Decoding where a cost depends on the grouping as a whole, or is a peak: by paths through the groupings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costs.chain import Chain, best_path
from costs.chain_problem import chain_problem
from costs.found import Found
from costs.partitions import Grouping, grouping_of
from costs.programme import Tree, find_prices
from costs.splits import Floats
from costs.table import CostTable
from costs.units import Resource


class PathDecoder:
    """Finds the best path within limits on `resources`; what does not depend on the limits is computed once."""

    def __init__(self, probs: Floats, table: CostTable, resources: Sequence[Resource], width: int) -> None:
        """Prepare for `probs` (L, T, C); the beam has no `width` where all groupings are looked at."""
        self._table = table
        self._problem = chain_problem(probs, table, resources)
        self._width = None if self._problem.complete else width

    @property
    def complete(self) -> bool:
        """Whether all groupings are looked at."""
        return self._problem.complete

    def best(self, limits: dict[Resource, float]) -> Found | None:
        """Return the best path within the limits, base units; None if none of those looked at is within all of them."""
        chain = self._problem.chain(limits)
        if not chain.reachable:
            return None
        best: Tree | None = None

        def within(path: Tree) -> bool:
            found = self._groupings(path)
            return all(self._table.architecture_cost(found, resource) <= limit for resource, limit in limits.items())

        def offer(path: Tree) -> None:
            nonlocal best
            if (best is None or path.rank < best.rank) and within(path):
                best = path

        for axis in range(len(chain.limits)):
            offer(chain.cheapest(axis))
        prices = find_prices(chain.limits, chain.path, chain.cheapest, offer)
        best, found_all = best_path(chain, prices, best, within, self._width)
        if best is None:
            return None
        exact = found_all and self.complete
        lowest = best.score if exact else chain.lower_bound(prices) if self.complete else 0.0
        return Found(self._groupings(best), best.score, self._chances(chain, best), lowest, exact)

    def _groupings(self, path: Tree) -> tuple[Grouping, ...]:
        return tuple(grouping_of(self._problem.states[state]) for (state,) in path.layers)

    def _chances(self, chain: Chain, path: Tree) -> tuple[float, ...]:
        taken, before = [], 0
        for layer, (state,) in enumerate(path.layers):
            first, last = chain.firsts[before], chain.firsts[before + 1]
            step = first + int(np.flatnonzero(chain.taken[first:last] == state)[0])
            taken.append(float(self._problem.chances[layer, step]))
            before = state
        return tuple(taken)

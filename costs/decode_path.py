"""Decoding where a cost depends on the grouping as a whole, or is a peak: by paths through the groupings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from costs.chain import Chain, best_path
from costs.chain_problem import ChainProblem, chain_problem
from costs.decode_tree import TreeDecoder
from costs.found import Found
from costs.lines import straight_tables
from costs.partitions import Grouping, grouping_of
from costs.programme import Tree, find_prices
from costs.scores import impossible_score
from costs.splits import Floats
from costs.table import CostTable
from costs.units import Resource


class PathDecoder:
    """Finds the best path within limits on `resources`; what does not depend on the limits is computed once."""

    def __init__(self, probs: Floats, table: CostTable, resources: Sequence[Resource], width: int) -> None:
        """Prepare for `probs` (L, T, C); `width` is that of the beam, which there is none of where all groupings are looked at."""
        self._probs, self._table, self._resources, self._width = probs, table, tuple(resources), width
        self._impossible = impossible_score(probs.shape)
        self._problem = chain_problem(probs, table, self._resources)

    @property
    def complete(self) -> bool:
        """Whether all groupings are looked at."""
        return self._problem.complete

    def best(self, limits: dict[Resource, float]) -> Found | None:
        """Return the best path within the limits, base units; None if none of those looked at is within all of them."""
        if self.complete:
            return search_problem(self._problem, self._table, limits, None, self._impossible)
        seen = chain_problem(self._probs, self._table, self._resources, self._suggested(limits))
        return search_problem(seen, self._table, limits, self._width, self._impossible)

    @cached_property
    def _straight(self) -> list[tuple[CostTable, TreeDecoder]]:
        """Decoders for tables below and above this one, for whose kind the search over sets of tasks is the better one."""
        sums = [resource for resource in self._resources if not resource.is_peak]
        if not sums:
            return []
        tables = straight_tables(self._table, sums)
        return [(table, TreeDecoder(self._probs, table, sums, self._width)) for table in tables]

    def _suggested(self, limits: dict[Resource, float]) -> list[Grouping]:
        """Return the groupings of the trees that straight costs would lead to within the same limits."""
        found: list[Grouping] = []
        for table, decoder in self._straight:
            sums = {resource: limit for resource, limit in limits.items() if not resource.is_peak}
            if all(table.shared_total(resource) <= limit for resource, limit in sums.items()):
                found.extend(decoder.best(sums).groupings)
        return found


def search_problem(
    problem: ChainProblem,
    table: CostTable,
    limits: dict[Resource, float],
    width: int | None,
    impossible: float = math.inf,
) -> Found | None:
    """Return the path of least score within the limits, base units; None if none is within all of them.

    `width` is that of the beam, None for none; a score from `impossible` on is that of a path with impossible steps.
    """
    chain = problem.chain(limits)
    if not chain.reachable:
        return None
    best: Tree | None = None

    def within(path: Tree) -> bool:
        found = _groupings(problem, path)
        return all(table.architecture_cost(found, resource) <= limit for resource, limit in limits.items())

    def offer(path: Tree) -> None:
        nonlocal best
        if (best is None or path.rank < best.rank) and within(path):
            best = path

    for axis in range(len(chain.limits)):
        offer(chain.cheapest(axis))
    prices = find_prices(chain.limits, chain.path, chain.cheapest, offer)
    best, found_all = best_path(chain, prices, best, within, width)
    if best is None:
        return None
    exact = found_all and problem.complete
    lowest = best.score if exact else chain.lower_bound(prices) if problem.complete else 0.0
    possible = best.score < impossible
    return Found(_groupings(problem, best), best.score, possible, _chances(problem, chain, best), lowest, exact)


def _groupings(problem: ChainProblem, path: Tree) -> tuple[Grouping, ...]:
    return tuple(grouping_of(problem.states[state]) for (state,) in path.layers)


def _chances(problem: ChainProblem, chain: Chain, path: Tree) -> tuple[float, ...]:
    """Return the probability of each step of a path."""
    taken, before = [], 0
    for layer, (state,) in enumerate(path.layers):
        first, last = chain.firsts[before], chain.firsts[before + 1]
        step = first + int(np.flatnonzero(chain.taken[first:last] == state)[0])
        taken.append(float(problem.chances[layer, step]))
        before = state
    return tuple(taken)

"""Decoding where all costs are proportional to the number of groups and add up: by sets of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costs.found import Found
from costs.partitions import Grouping, grouping_of
from costs.programme import (
    Problem,
    Tree,
    best_tree,
    find_prices,
    lower_bound,
    relax,
    relaxed_tree,
    shared_tree,
)
from costs.scores import CostLattice, impossible_score, log_scores
from costs.splits import COMPLETE_TASKS, Floats, split_probabilities, splits_for
from costs.table import CostTable
from costs.units import Resource


class TreeDecoder:
    """Finds the best tree within limits on `resources`; what does not depend on the limits is computed once."""

    def __init__(self, probs: Floats, table: CostTable, resources: Sequence[Resource], width: int) -> None:
        """Prepare for `probs` (L, T, C); the beam has no `width` where all splits are looked at."""
        self._table = table
        self._splits = splits_for(probs)
        self._width = None if self._splits.tasks <= COMPLETE_TASKS else width
        self._chances = split_probabilities(probs, self._splits)
        self._scores = log_scores(self._chances, probs.shape)
        self._impossible = impossible_score(probs.shape)
        self._lattices = {
            resource: CostLattice(
                table.layer_costs(resource),
                table.fixed_cost(resource),
                table.split_total(resource),
                len(table.tasks) * (len(table.layers) + 1) + 1,
            )
            for resource in resources
        }

    @property
    def complete(self) -> bool:
        """Whether all splits are looked at."""
        return self._splits.complete

    def best(self, limits: dict[Resource, float]) -> Found:
        """Return the best tree within the limits, base units, each within reach on its own and so all together."""
        costs = np.column_stack([lattice.costs for lattice in self._lattices.values()])
        bounds = np.array([lattice.limit(limits[resource]) for resource, lattice in self._lattices.items()])
        problem = Problem(self._splits, self._scores, costs, bounds)
        best = shared_tree(problem)

        def within(tree: Tree) -> bool:
            counts = [sum(int(self._splits.counts[split]) for split in layer) for layer in tree.layers]
            return all(self._table.architecture_cost(counts, resource) <= limit for resource, limit in limits.items())

        def offer(tree: Tree) -> None:
            nonlocal best
            if tree.rank < best.rank and within(tree):
                best = tree

        prices = find_prices(
            problem.limits,
            lambda trial: relaxed_tree(problem, relax(problem, trial)),
            lambda _: shared_tree(problem),
            offer,
        )
        best, complete = best_tree(problem, prices, best, within, self._width)
        exact = complete and self.complete
        lowest = best.score if exact else lower_bound(problem, relax(problem, prices)) if self.complete else 0.0
        chances = [float(self._chances[layer, split]) for layer, used in enumerate(best.layers) for split in used]
        possible = best.score < self._impossible
        return Found(self._groupings(best), best.score, possible, tuple(chances), lowest, exact)

    def _groupings(self, tree: Tree) -> tuple[Grouping, ...]:
        return tuple(
            grouping_of(block for split in layer for block in self._splits.partition(split)) for layer in tree.layers
        )

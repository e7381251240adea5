"""From probabilities and a table to the problem of `costs.chain`: which groupings, which steps, their scores and costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from costs.chain import Chain
from costs.forms import extreme_architectures
from costs.lattice import lattice_of
from costs.partitions import Grouping, Partition, grouping_of, partition_of, refines, restrict
from costs.scores import SCORE_STEP, CostLattice, log_scores
from costs.splits import (
    COMPLETE_TASKS,
    Floats,
    Ints,
    complete_splits,
    pack_splits,
    split_numbers,
    split_probabilities,
)
from costs.table import CostTable
from costs.units import Resource

_MOST_LADDERS = 12
"""From so many layers the groupings are taken that are looked at where not all can be."""


@dataclass(frozen=True)
class ChainProblem:
    """All of a `Chain` but the limits.

    Attributes:
        states: the groupings; `left`, `taken`, `scores` and `chances` (the probabilities) are of the steps, as in `Chain`.
        sums: the costs of the states (L, n) in each resource that adds up, in the order of the resources.
        peaks: the same in each that does not.
        complete: whether the states are all groupings there are.
    """

    states: tuple[Partition, ...]
    left: Ints
    taken: Ints
    scores: Floats
    chances: Floats
    sums: dict[Resource, CostLattice]
    peaks: dict[Resource, Floats]
    complete: bool

    def chain(self, limits: dict[Resource, float]) -> Chain:
        """Return the problem with these limits, one for each resource, in base units."""
        shape = (len(self.scores), len(self.states))
        # Without any cost that adds up there is one of 0, so that arrays have an axis for it.
        columns = [lattice.costs for lattice in self.sums.values()] or [np.zeros(shape)]
        bounds = [lattice.limit(limits[resource]) for resource, lattice in self.sums.items()] or [0.0]
        allowed = np.ones(shape, dtype=np.bool_)
        for resource, costs in self.peaks.items():
            allowed &= costs <= limits[resource]
        return Chain(self.left, self.taken, self.scores, np.stack(columns, axis=2), allowed, np.array(bounds))


def chain_problem(
    probs: Floats, table: CostTable, resources: Iterable[Resource], suggested: Iterable[Grouping] = ()
) -> ChainProblem:
    """Return the problem for `probs` (L, T, C) and limits in these resources.

    Up to eight tasks all groupings are states. Beyond, they are those that the probabilities suggest: in each layer
    the tasks joined one by one in the order of the probability that they are together, what the cheapest architectures
    hold, and what is `suggested`.
    """
    tasks = probs.shape[1]
    if tasks <= COMPLETE_TASKS:
        left, taken, states = _all_steps(tasks)
        scores, chances = _score_all_steps(probs)
    else:
        chosen = _suggested(probs)
        chosen.update(dict.fromkeys(partition_of(grouping, tasks) for grouping in suggested))
        for resource in resources:
            cheapest = extreme_architectures(table, resource)[0]
            chosen.update(dict.fromkeys(partition_of(grouping, tasks) for grouping in cheapest))
        states = tuple(chosen)
        left, taken, scores, chances = _score_steps(probs, states)
    sums, peaks = _all_costs(table, resources, states)
    return ChainProblem(states, left, taken, scores, chances, sums, peaks, tasks <= COMPLETE_TASKS)


def all_groupings(tasks: int) -> tuple[Partition, ...]:
    """Return the states of a problem with all groupings of up to eight tasks, all tasks together first."""
    return _all_steps(tasks)[2]


def penalty_problem(penalties: Floats, table: CostTable, resources: Iterable[Resource]) -> ChainProblem:
    """Return the problem whose score is a sum of `penalties` (L, n) of the groupings of `all_groupings` taken."""
    left, taken, states = _all_steps(len(table.tasks))
    # On the lattice of scores, so that sums are exact and equal ones are told to be equal.
    scores = np.round(penalties / SCORE_STEP)[:, taken] * SCORE_STEP
    sums, peaks = _all_costs(table, resources, states)
    return ChainProblem(states, left, taken, scores, np.ones_like(scores), sums, peaks, complete=True)


def _all_costs(
    table: CostTable, resources: Iterable[Resource], states: tuple[Partition, ...]
) -> tuple[dict[Resource, CostLattice], dict[Resource, Floats]]:
    """Return the costs of the states in each resource that adds up, and in each that does not."""
    sums, peaks = {}, {}
    for resource in resources:
        costs, fixed = _state_costs(table, resource, states), table.fixed_cost(resource)
        if resource.is_peak:
            peaks[resource] = costs
        else:
            sums[resource] = CostLattice(costs, fixed, float(costs.max(axis=1).sum()) + fixed, len(costs) + 2)
    return sums, peaks


def _state_costs(table: CostTable, resource: Resource, states: tuple[Partition, ...]) -> Floats:
    """Return the cost of each layer under each of these groupings, (L, n)."""
    if table.dependence(resource) == "partition":
        return np.array([[costs[state] for state in states] for costs in table.by_partition[resource]])
    return table.count_costs(resource)[:, [len(state) - 1 for state in states]]


@lru_cache(maxsize=COMPLETE_TASKS)
def _all_steps(tasks: int) -> tuple[Ints, Ints, tuple[Partition, ...]]:
    """Return all steps from a partition to one that refines it, by the one left, and the partitions."""
    lattice = lattice_of(tasks)
    coarse, fine, order = _pairs(tasks)
    states = tuple(tuple(int(block) for block in row if block) for row in lattice.blocks)
    return coarse[order], fine[order], states


@lru_cache(maxsize=COMPLETE_TASKS)
def _pairs(tasks: int) -> tuple[Ints, Ints, Ints]:
    intervals = lattice_of(tasks).intervals
    coarse = np.concatenate([i.coarse.ravel() for i in intervals]).astype(np.int64)
    fine = np.concatenate([np.tile(i.fine, len(i.coarse)) for i in intervals])
    return coarse, fine, np.lexsort((fine, coarse))


def _score_all_steps(probs: Floats) -> tuple[Floats, Floats]:
    """Return -log and the probability of all steps in each layer, (L, E), as sums and products over the blocks left."""
    tasks = probs.shape[1]
    chances = split_probabilities(probs, complete_splits(tasks))
    scores = log_scores(chances, probs.shape)
    order = _pairs(tasks)[2]
    empty = np.zeros((len(scores), 1))
    score, chance = np.concatenate([empty, scores], axis=1), np.concatenate([empty + 1.0, chances], axis=1)
    all_scores, all_chances = [], []
    for interval, numbers in zip(lattice_of(tasks).intervals, split_numbers(tasks), strict=True):
        unions = numbers[interval.shape.blocks]  # (Bell(b), b, n); the empty union is split 0, of probability 1
        all_scores.append(score[:, unions].sum(axis=2).reshape(len(scores), -1))
        all_chances.append(chance[:, unions].prod(axis=2).reshape(len(scores), -1))
    return np.concatenate(all_scores, axis=1)[:, order], np.concatenate(all_chances, axis=1)[:, order]


def _score_steps(probs: Floats, states: tuple[Partition, ...]) -> tuple[Ints, Ints, Floats, Floats]:
    """Return the steps between these states, the one left and the one taken, with -log and the probability (L, E)."""
    tasks = probs.shape[1]
    pairs = [(i, j) for i, j in itertools.product(range(len(states)), repeat=2) if refines(states[j], states[i])]
    needed = [[restrict(states[j], block) for block in states[i]] for i, j in pairs]
    # Closed under the removal of a block, which the probabilities are built by.
    closed: dict[Partition, None] = {(1 << t,): None for t in range(tasks)}
    for splits in needed:
        for split in splits:
            if split not in closed:
                closed.update(
                    dict.fromkeys(c for n in range(1, len(split) + 1) for c in itertools.combinations(split, n))
                )
    closed.update(dict.fromkeys((mask,) for mask in range(1, 2**tasks)))  # one split at least for every set
    listed = sorted(((sum(split), split) for split in closed), key=lambda item: (item[0], len(item[1]), item[1]))
    numbers = {split: s for s, (_, split) in enumerate(listed)}
    chances = split_probabilities(probs, pack_splits(tasks, listed, complete=False))
    scores = log_scores(chances, probs.shape)
    flat = np.array([numbers[split] for splits in needed for split in splits])
    starts = np.cumsum([0] + [len(splits) for splits in needed[:-1]])
    left, taken = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return (
        left,
        taken,
        np.add.reduceat(scores[:, flat], starts, axis=1),
        np.multiply.reduceat(chances[:, flat], starts, axis=1),
    )


def _suggested(probs: Floats) -> dict[Partition, None]:
    """Return groupings that the probabilities suggest, all tasks together first: for each layer a ladder of T."""
    tasks = probs.shape[1]
    together = np.cumprod(np.einsum("ltc,luc->ltu", probs, probs), axis=0)
    chosen: dict[Partition, None] = {(2**tasks - 1,): None}
    picked = np.unique(np.linspace(0, len(probs) - 1, min(len(probs), _MOST_LADDERS)).round().astype(int))
    for matrix in together[picked]:
        blocks = [1 << t for t in range(tasks)]
        chosen.setdefault(tuple(blocks), None)
        pairs = sorted(itertools.combinations(range(tasks), 2), key=lambda pair: -matrix[pair])
        for t, u in pairs:
            one = next(b for b in blocks if b >> t & 1)
            other = next(b for b in blocks if b >> u & 1)
            if one != other:
                blocks = [b for b in blocks if b not in (one, other)] + [one | other]
                chosen.setdefault(partition_of(grouping_of(blocks), tasks), None)
    return chosen

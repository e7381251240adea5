"""Pareto fronts: sets of partial trees of which none is both as cheap (in every resource) and as probable as another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costs.splits import Floats, Ints

_SUMS_AT_ONCE = 4_000_000
"""How many sums of points `join` forms at a time: 32 MB for each number that a point has."""
_POINTS_AT_ONCE = 256
"""How many points `undominated` compares with all others at a time."""


@dataclass(frozen=True)
class Front:
    """Points that do not dominate each other, for one block of tasks at one layer.

    Attributes:
        cost: (n, R) of everything from this layer on.
        score: (n,) the same for -log probability.
        split: (n,) by which split the block goes on here.
        picks: (n, T) which point of the front of the i-th resulting block it goes on with, at position i.
    """

    cost: Floats
    score: Floats
    split: Ints
    picks: Ints

    @classmethod
    def of(cls, cost: Floats, score: float, split: int, tasks: int) -> Front:
        """Return the front of one point, cost (R,), of a block that goes on by `split`."""
        return cls(cost[None], np.array([score]), np.array([split]), np.zeros((1, tasks), dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.score)

    def take(self, chosen: Ints) -> Front:
        """Return these of the points, in the order given."""
        return Front(self.cost[chosen], self.score[chosen], self.split[chosen], self.picks[chosen])

    def best_first(self) -> Ints:
        """Return the points' numbers by score, then by cost, resource after resource."""
        return np.lexsort((*self.cost.T[::-1], self.score))


def join(
    one: Front, other: Front, position: int, allows: Callable[[Floats, Floats], npt.NDArray[np.bool_]]
) -> Front | None:
    """Return the front of all sums of a point of `one` and of `other`, the front of the block at `position`.

    `allows(cost (n, R), score (n,))` says which sums are of use; None if none is.
    """
    kept: list[Front] = []
    rows = max(1, _SUMS_AT_ONCE // len(other))
    for start in range(0, len(one), rows):
        part = slice(start, start + rows)
        cost = (one.cost[part, None] + other.cost[None]).reshape(-1, one.cost.shape[1])
        score = (one.score[part, None] + other.score[None]).ravel()
        useful = np.flatnonzero(allows(cost, score))
        if len(useful):
            chosen = useful[undominated(cost[useful], score[useful])]
            mine, its = np.divmod(chosen, len(other))
            picks = one.picks[start + mine]
            picks[:, position] = its
            kept.append(Front(cost[chosen], score[chosen], one.split[start + mine], picks))
    return merge(kept)


def merge(fronts: Sequence[Front]) -> Front | None:
    """Return the front of the points of all `fronts`; None if there is none."""
    if len(fronts) <= 1:
        return fronts[0] if fronts else None
    whole = Front(
        np.concatenate([front.cost for front in fronts]),
        np.concatenate([front.score for front in fronts]),
        np.concatenate([front.split for front in fronts]),
        np.concatenate([front.picks for front in fronts]),
    )
    return whole.take(undominated(whole.cost, whole.score))


def shorten(front: Front, prices: Floats, width: int) -> Front:
    """Return the `width` points of least score + price * cost, the cheapest always among them."""
    return front.take(favoured(front.cost, front.score, prices, width))


def favoured(cost: Floats, score: Floats, prices: Floats, width: int) -> Ints:
    """Return the numbers, ascending, of the `width` points of least score + price * cost.

    The cheapest is always among them, so that something stays within a budget. `cost` has shape (n, R), `score` (n,).
    """
    if len(score) <= width:
        return np.arange(len(score))
    chosen: Ints = np.argsort(score + cost @ prices, kind="stable")[:width]
    cheapest = np.lexsort(cost.T[::-1])[0]
    if cheapest not in chosen:
        chosen[-1] = cheapest
    return np.sort(chosen)


def undominated(cost: Floats, score: Floats) -> Ints:
    """Return the numbers of the points that no other one equals or beats in score and all costs, by rising cost.

    Of equal points the first is kept. `cost` has shape (n, R), `score` (n,).
    """
    order = np.lexsort((score, *cost.T[::-1]))  # whatever dominates a point comes before it
    if cost.shape[1] == 1:
        least = np.minimum.accumulate(score[order])
        kept_first: Ints = order[np.concatenate([[True], score[order][1:] < least[:-1]])]
        return kept_first
    points = np.column_stack([cost, score])[order]
    kept: list[Ints] = []
    while len(points):
        head, rest = points[:_POINTS_AT_ONCE], points[_POINTS_AT_ONCE:]
        within = np.tril(_beats(head, head), k=-1).any(axis=1)  # by one before it in the order
        survivors = head[~within]
        kept.append(order[: len(head)][~within])
        free = ~_beats(rest, survivors).any(axis=1)
        points, order = rest[free], order[len(head) :][free]
    return np.concatenate(kept)


def _beats(points: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Say at [i, j] whether others[j] is at most points[i] in every number."""
    result = np.ones((len(points), len(others)), dtype=np.bool_)
    for axis in range(points.shape[1]):
        result &= others[None, :, axis] <= points[:, None, axis]
    return result

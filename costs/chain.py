"""The dynamic programme over groupings, for costs that are not a sum over groups.

The grouping of a layer depends on that of the layer before and nothing else, so an architecture is a path through the
partitions, from layer to layer to one that refines it. A path's score is a sum over its steps, a cost a sum over its
states, and a budget for a peak forbids states. As in `costs.programme`, of which this is the general and slower
sibling (it has a state for each partition, not for each set of tasks), a bound by prices comes first and fronts of
(cost, score) are kept only of what the bound does not exclude. Scores and costs lie on a lattice of powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from costs.fronts import favoured, undominated
from costs.programme import FIRST_GAP, ROUNDING, Tree
from costs.splits import Floats, Ints

_STEPS_AT_ONCE = 2_000_000
_MOST_POINTS = 200_000
"""Points kept in one layer, whatever the width; more than this and the search is cut short, which the result says."""


@dataclass(frozen=True)
class Chain:
    """What to search: n states (state 0 holds all tasks together) and the steps between them, by the state left.

    Attributes:
        left: (E,) the state that a step leaves, ascending.
        taken: (E,) the state it leads to.
        scores: (L, E) -log of its probability in each layer.
        costs: (L, n, R) of a state.
        allowed: (L, n) whether a state may be taken.
        limits: (R,) of the sum of costs.
    """

    left: Ints
    taken: Ints
    scores: Floats
    costs: Floats
    allowed: npt.NDArray[np.bool_]
    limits: Floats

    @cached_property
    def firsts(self) -> Ints:
        """Where the steps of each state begin, and where the last ones end, (n + 1,)."""
        return np.searchsorted(self.left, np.arange(self.costs.shape[1] + 1)).astype(np.int64)

    @cached_property
    def least(self) -> Floats:
        """The least that each resource can come to after a state, (L + 1, n, R); at 0 before the first layer."""
        columns = [self._rest(np.zeros_like(self.scores), self.costs[:, :, r]) for r in range(self.costs.shape[2])]
        return np.stack(columns, axis=2)

    def rest(self, prices: Floats) -> Floats:
        """Return the least score + price * cost of what follows a state, (L + 1, n); inf where nothing may."""
        return self._rest(self.scores, self.costs @ prices)

    def lower_bound(self, prices: Floats) -> float:
        """Return a bound from below on the score of every path within the limits, by weak duality for prices >= 0."""
        lowest = float(self.rest(prices)[0, 0]) - float(prices @ self.limits)
        return max(0.0, lowest - ROUNDING * (1 + abs(lowest)))

    def path(self, prices: Floats) -> Tree:
        """Return the path of least score + price * cost."""
        rest, priced = self.rest(prices), self.costs @ prices
        score, cost, state, states = 0.0, np.zeros(len(prices)), 0, []
        for layer in range(len(self.scores)):
            steps = slice(self.firsts[state], self.firsts[state + 1])
            following = self.taken[steps]
            totals = self.scores[layer, steps] + priced[layer, following] + rest[layer + 1, following]
            best = int(np.where(self.allowed[layer, following], totals, np.inf).argmin())
            score += float(self.scores[layer, steps][best])
            state = int(following[best])
            cost += self.costs[layer, state]
            states.append((state,))
        return Tree(score, tuple(cost.tolist()), tuple(states))

    def cheapest(self, axis: int) -> Tree:
        """Return a path of least cost in one resource, of which there is one (see `reachable`)."""
        # A price at which a unit of cost, which is a whole number, outweighs any score.
        prices = np.zeros(self.costs.shape[2])
        prices[axis] = 1.0
        free = Chain(self.left, self.taken, np.zeros_like(self.scores), self.costs, self.allowed, self.limits)
        states = free.path(prices).layers
        return self.along([state for (state,) in states])

    def along(self, states: list[int]) -> Tree:
        """Return the path through these states, with its score and cost."""
        score, cost, before = 0.0, np.zeros(self.costs.shape[2]), 0
        for layer, state in enumerate(states):
            first, last = self.firsts[before], self.firsts[before + 1]
            score += float(self.scores[layer, first + int(np.flatnonzero(self.taken[first:last] == state)[0])])
            cost += self.costs[layer, state]
            before = state
        return Tree(score, tuple(cost.tolist()), tuple((state,) for state in states))

    @property
    def reachable(self) -> bool:
        """Whether every limit can be kept on its own; if not, no path is within all of them."""
        return bool((self.least[0, 0] <= self.limits).all())

    def _rest(self, scores: Floats, costs: Floats) -> Floats:
        layers, states = costs.shape
        rest = np.zeros((layers + 1, states))
        for layer in reversed(range(layers)):
            totals = np.where(self.allowed[layer], costs[layer] + rest[layer + 1], np.inf)[self.taken]
            rest[layer] = np.minimum.reduceat(totals + scores[layer], self.firsts[:-1])
        return rest


def best_path(
    chain: Chain, prices: Floats, known: Tree | None, within: Callable[[Tree], bool], width: int | None
) -> tuple[Tree | None, bool]:
    """Return the best path that `within` accepts, None if there is none, and whether nothing was left out.

    `known` is such a path, if one is known. As `costs.programme.best_tree`, the search raises a ceiling for the score.
    For `width` see `search`.
    """
    rest = chain.rest(prices)
    lowest = float(rest[0, 0]) - float(prices @ chain.limits)
    highest = float(chain.scores.max(axis=1).sum())
    gap = FIRST_GAP
    while True:
        ceiling = min(lowest + gap, known.score if known else np.inf)
        front, complete = search(chain, prices, rest, ceiling, width)
        for path in front:
            if within(path):
                known = path if known is None else min(known, path, key=lambda tree: tree.rank)
                break
        if gap == np.inf or (known is not None and known.score <= ceiling):
            return known, complete
        gap = 2 * gap if complete and gap < highest else np.inf


def search(
    chain: Chain, prices: Floats, rest: Floats, ceiling: float, width: int | None
) -> tuple[Iterator[Tree], bool]:
    """Return the undominated paths of a score up to `ceiling` within the limits, best first, and whether all.

    With a `width`, at most so many partial paths are kept that end in the same state, those that the prices favour.
    """
    resources = chain.costs.shape[2]
    bound = ceiling + float(prices @ chain.limits)
    bound += ROUNDING * (1 + abs(bound))
    points = _Points(np.zeros((1, resources)), np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    history, complete = [], True
    for layer in range(len(chain.scores)):
        points, whole = _step(chain, layer, points, prices, rest, bound, width)
        complete &= whole
        if len(points.score) > _MOST_POINTS:
            priced = points.score + points.cost @ prices + rest[layer + 1, points.state]
            points, complete = points.take(np.sort(np.argsort(priced, kind="stable")[:_MOST_POINTS])), False
        history.append(points)
    return _paths(history), complete


@dataclass(frozen=True)
class _Points:
    """Partial paths: cost (p, R) and score (p,) so far, the state they end in, and the point they come from."""

    cost: Floats
    score: Floats
    state: Ints
    origin: Ints

    def take(self, chosen: Ints) -> _Points:
        return _Points(self.cost[chosen], self.score[chosen], self.state[chosen], self.origin[chosen])


def _step(
    chain: Chain, layer: int, points: _Points, prices: Floats, rest: Floats, bound: float, width: int | None
) -> tuple[_Points, bool]:
    """Return the undominated continuations of `points` by one layer that the bound and the limits do not exclude.

    Also whether they are all, or `width` left some out.
    """
    degrees = (chain.firsts[1:] - chain.firsts[:-1])[points.state]
    runs = np.split(np.arange(len(degrees)), np.flatnonzero(np.diff(np.cumsum(degrees) // _STEPS_AT_ONCE)) + 1)
    kept = []
    for run in runs:
        owner = np.repeat(run, degrees[run])
        within = np.arange(len(owner)) - np.repeat(np.cumsum(degrees[run]) - degrees[run], degrees[run])
        steps = chain.firsts[points.state[owner]] + within
        state = chain.taken[steps]
        score = points.score[owner] + chain.scores[layer, steps]
        cost = points.cost[owner] + chain.costs[layer, state]
        useful = score + cost @ prices + rest[layer + 1, state] <= bound
        useful &= chain.allowed[layer, state] & (cost + chain.least[layer + 1, state] <= chain.limits).all(axis=1)
        kept.append(_Points(cost[useful], score[useful], state[useful], owner[useful]))
    found = _Points(
        np.concatenate([p.cost for p in kept]),
        np.concatenate([p.score for p in kept]),
        np.concatenate([p.state for p in kept]),
        np.concatenate([p.origin for p in kept]),
    )
    order = np.argsort(found.state, kind="stable")
    chosen = [
        run[undominated(found.cost[run], found.score[run])]
        for run in np.split(order, np.flatnonzero(np.diff(found.state[order])) + 1)
        if len(run)
    ]
    whole = width is None or all(len(run) <= width for run in chosen)
    if width is not None and not whole:
        chosen = [run[favoured(found.cost[run], found.score[run], prices, width)] for run in chosen]
    return found.take(np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)), whole


def _paths(history: list[_Points]) -> Iterator[Tree]:
    last = history[-1]
    # What ends in different states competes as well.
    for i in np.lexsort((*last.cost.T[::-1], last.score)):
        states, point = [], int(i)
        for points in reversed(history):
            states.append((int(points.state[point]),))
            point = int(points.origin[point])
        yield Tree(float(last.score[i]), tuple(last.cost[i].tolist()), tuple(reversed(states)))

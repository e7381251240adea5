"""The dynamic programme behind decoding: from the probability of every split to the best tree within the limits.

A block of tasks that is together before layer l splits by its own draws only, and its parts evolve independently.
So a tree's score (-log probability) and cost are sums over its splits, and the best completion of a block depends
on nothing but the block and the layer. Three steps use this:

- `relax`: with a price per unit of cost instead of limits, one pass from the last layer to the first finds the tree
  of least score + price * cost. Its value bounds every tree within the limits from below (weak duality).
- `find_prices`: the prices of the best bound, meeting trees within the limits on the way.
- `best_tree`: fronts of (cost, score) per block and layer, not of all partial trees but only of those that the bound
  does not exclude. Exact, because what is left out cannot be part of a tree better than one already known.

Scores and costs are rounded to a lattice of powers of two by the caller, so that their sums are exact in any order,
and trees that are equally good compare equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat

import numpy as np
import numpy.typing as npt

from costs.fronts import Front, join, merge, shorten
from costs.splits import Floats, Ints, Splits

ROUNDING = 1e-9
"""Relative room for rounding wherever a bound, which holds prices and is not on the lattice, excludes something."""
FIRST_GAP = 0.25
"""How far above the lower bound the search looks first, in -log probability."""
_SPLITS_PER_POINT = 32
"""Splits that a beam looks at in each layer, per point that its fronts keep."""


@dataclass(frozen=True)
class Problem:
    """What to search: `scores` (L, S) of the splits, `costs` (L, R) of one group, `limits` (R,) of the sum."""

    splits: Splits
    scores: Floats
    costs: Floats
    limits: Floats

    @cached_property
    def tails(self) -> Floats:
        """What one group costs from each layer on to the end, (L + 1, R)."""
        return np.concatenate([np.cumsum(self.costs[::-1], axis=0)[::-1], np.zeros((1, self.costs.shape[1]))])


@dataclass(frozen=True)
class Tree:
    """A whole architecture: the splits taken in each layer (numbers in `Splits`), its score and its cost (R)."""

    score: float
    cost: tuple[float, ...]
    layers: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> tuple[float, tuple[float, ...]]:
        """Sort key: the more probable tree first, of equally probable ones the cheaper."""
        return self.score, self.cost


@dataclass(frozen=True)
class Relaxed:
    """The problem with prices (R,) instead of limits.

    `inside[l, A]` (L + 1, 2^T) is the least score + price * cost of what becomes of block A from layer l on,
    `totals[l, s]` (L, S) the same if it splits by s there.
    """

    prices: Floats
    inside: Floats
    totals: Floats


def relax(problem: Problem, prices: Floats) -> Relaxed:
    """Solve the problem with prices instead of limits, from the last layer to the first."""
    splits, layers = problem.splits, len(problem.scores)
    inside = np.zeros((layers + 1, splits.full + 1))
    totals = problem.scores + (problem.costs @ prices)[:, None] * splits.counts
    for layer in reversed(range(layers)):
        totals[layer] += np.add.reduceat(inside[layer + 1][splits.blocks], splits.starts)
        inside[layer, 1:] = np.minimum.reduceat(totals[layer], splits.firsts)
    return Relaxed(prices, inside, totals)


def lower_bound(problem: Problem, relaxed: Relaxed) -> float:
    """Return a bound from below on the score of every tree within the limits, by weak duality."""
    lowest = float(relaxed.inside[0, -1]) - float(relaxed.prices @ problem.limits)
    return max(0.0, lowest - ROUNDING * (1 + abs(lowest)))


def outside(problem: Problem, relaxed: Relaxed) -> Floats:
    """Return the least score + price * cost of all around block A at layer l, (L, 2^T); inf where A cannot occur."""
    splits, layers = problem.splits, len(problem.scores)
    result = np.full((layers, splits.full + 1), np.inf)
    result[0, splits.full] = 0.0
    owners = np.repeat(np.arange(len(splits.sets)), splits.counts)
    for layer in range(layers - 1):
        around = result[layer][splits.sets] + relaxed.totals[layer]
        np.minimum.at(result[layer + 1], splits.blocks, around[owners] - relaxed.inside[layer + 1][splits.blocks])
    return result


def relaxed_tree(problem: Problem, relaxed: Relaxed) -> Tree:
    """Return the tree that solves the relaxed problem; of equal splits the first in canonical order is taken."""

    def choose(layer: int, block: int, _: int) -> tuple[int, Iterable[int]]:
        part = problem.splits.of(block)
        return part.start + int(relaxed.totals[layer, part].argmin()), repeat(0)

    return _grow(problem, 0, choose)


def shared_tree(problem: Problem) -> Tree:
    """Return the tree in which all tasks share all layers: the cheapest there is."""
    return _grow(problem, 0, lambda _, block, __: (problem.splits.of(block).start, repeat(0)))


def _grow(problem: Problem, root: int, choose: Callable[[int, int, int], tuple[int, Iterable[int]]]) -> Tree:
    """Build a tree from the first layer on.

    `choose(layer, block, point)` says by which split a block goes on, and the point of each resulting block.
    """
    splits, score, layers = problem.splits, 0.0, []
    cost = np.zeros(problem.costs.shape[1])
    alive = [(splits.full, root)]
    for layer in range(len(problem.scores)):
        taken: list[int] = []
        following: list[tuple[int, int]] = []
        for block, point in alive:
            split, points = choose(layer, block, point)
            taken.append(split)
            score += float(problem.scores[layer, split])
            cost += problem.costs[layer] * splits.counts[split]
            following.extend(zip(splits.partition(split), points, strict=False))
        layers.append(tuple(taken))
        alive = following
    return Tree(score, tuple(cost.tolist()), tuple(layers))


def find_prices(
    limits: Floats, solve: Callable[[Floats], Tree], cheapest: Callable[[int], Tree], offer: Callable[[Tree], None]
) -> Floats:
    """Return prices (R,) whose bound is the best, or nearly so; every tree met on the way is given to
    `offer`.

    `solve(prices)` is the tree of least score + price * cost, `cheapest(r)` one of least cost in resource r. For
    one limit this walks the lower convex hull of (cost, score): the price is the slope between a tree
    above the limit and one below, until no tree lies under the line through the two. For several limits the
    walk is done for each in turn, three rounds: the bound may then not be the best, which costs time and not
    exactness.
    """
    prices = np.zeros(len(limits))

    def offered(trial: Floats) -> Tree:
        tree = solve(trial)
        offer(tree)
        return tree

    for _ in range(1 if len(prices) == 1 else 3):
        for axis in range(len(prices)):
            prices = _walk(limits, prices, axis, offered, cheapest(axis))
    return prices


def _walk(limits: Floats, prices: Floats, axis: int, solve: Callable[[Floats], Tree], below: Tree) -> Floats:
    """Return `prices` with the price of one resource made the best, given the others; `below` is within its limit."""
    others = prices.copy()
    others[axis] = 0.0

    def priced(price: float) -> Floats:
        trial = others.copy()
        trial[axis] = price
        return trial

    def value(tree: Tree, price: float) -> float:
        return tree.score + float(others @ np.array(tree.cost)) + price * tree.cost[axis]

    above = solve(others)
    while above.cost[axis] > limits[axis]:
        price = (value(below, 0.0) - value(above, 0.0)) / (above.cost[axis] - below.cost[axis])
        tree, line = solve(priced(price)), value(above, price)
        # The second test ends the walk where rounding hides that nothing is left under the line.
        if value(tree, price) >= line - ROUNDING * (1 + abs(line)) or tree.cost in (above.cost, below.cost):
            return priced(price)
        if tree.cost[axis] <= limits[axis]:
            below = tree
        else:
            above = tree
    return others


def best_tree(
    problem: Problem, prices: Floats, known: Tree, within: Callable[[Tree], bool], width: int | None
) -> tuple[Tree, bool]:
    """Return the best tree that `within` accepts, and whether nothing was left out on the way to it.

    `known` is such a tree. The search starts with a ceiling for the score just above the lower bound and
    raises it until a tree is found or the ceiling is that of the known tree: the effort grows steeply with
    the ceiling, so it must not be much higher than needed. For `width` see `search`.
    """
    relaxed = relax(problem, prices)
    around = outside(problem, relaxed)
    lowest = float(relaxed.inside[0, -1]) - float(prices @ problem.limits)
    gap = FIRST_GAP
    while True:
        ceiling = min(lowest + gap, known.score)
        fronts, complete = search(problem, relaxed, around, ceiling, width)
        found = next(filter(within, _trees(problem, fronts)), known)
        known = min(known, found, key=lambda tree: tree.rank)
        if known.score <= ceiling:
            return known, complete
        gap = 2 * gap if complete else np.inf  # a full beam does not hold more if the ceiling rises step by step


def search(
    problem: Problem, relaxed: Relaxed, around: Floats, ceiling: float, width: int | None
) -> tuple[dict[tuple[int, int], Front], bool]:
    """Return the fronts, by layer and block, that the trees that matter are built from, and whether they are
    all.

    The trees that matter have a score up to `ceiling` and no other one equals or beats them in score and all
    costs. Blocks of which nothing is left to decide have no front. With a `width`, a front keeps at most so
    many points and a layer at most `_SPLITS_PER_POINT` times as many splits, those that the prices favour.
    """
    splits = problem.splits
    bound = ceiling + float(relaxed.prices @ problem.limits)
    bound += ROUNDING * (1 + abs(bound))
    fronts: dict[tuple[int, int], Front] = {}
    complete = True
    for layer in reversed(range(len(problem.scores))):
        priced = around[layer][splits.sets] + relaxed.totals[layer]
        promising = np.flatnonzero(priced <= bound)
        if width is not None and len(promising) > width * _SPLITS_PER_POINT:
            favoured = np.argsort(priced[promising], kind="stable")[: width * _SPLITS_PER_POINT]
            promising, complete = promising[np.sort(favoured)], False
        for chosen in _by_set(promising, splits.sets[promising]):
            block = int(splits.sets[chosen[0]])
            room = _Room(problem, relaxed, layer, block, bound - float(around[layer, block]))
            found = [_extend(problem, room, int(split), fronts) for split in chosen]
            front = merge([one for one in found if one is not None])
            if front is not None and width is not None and len(front) > width:
                front, complete = shorten(front, relaxed.prices, width), False
            if front is not None:
                fronts[layer, block] = front
    return fronts, complete


def _by_set(chosen: Ints, sets: Ints) -> list[Ints]:
    """Cut the numbers of splits, ascending, into runs that split the same set."""
    return [run for run in np.split(chosen, np.flatnonzero(np.diff(sets)) + 1) if len(run)]


class _Room:
    """What the rest of the tree leaves for a block at a layer: in priced score, and in each cost."""

    def __init__(self, problem: Problem, relaxed: Relaxed, layer: int, block: int, priced: float) -> None:
        tails = problem.tails
        self.layer, self.priced, self.prices = layer, priced, relaxed.prices
        self.inside, self.tail = relaxed.inside[layer + 1], tails[layer + 1]
        if block == problem.splits.full:
            least = tails[0] - tails[layer]
        else:  # the other tasks need a group of their own here, and had one at the split, in the layer before
            least = tails[0] - tails[layer - 1] + 2 * problem.costs[layer - 1] + tails[layer]
        self.limits = problem.limits - least

    def allows(self, blocks: list[int], cost: Floats, score: Floats) -> npt.NDArray[np.bool_]:
        """Say which points (cost (n, R), score (n,)) can be completed while `blocks` are still to be added."""
        priced = score + cost @ self.prices + self.inside[blocks].sum()
        fits: npt.NDArray[np.bool_] = (cost + len(blocks) * self.tail <= self.limits).all(axis=1)
        fits &= priced <= self.priced
        return fits


def _extend(problem: Problem, room: _Room, split: int, fronts: dict[tuple[int, int], Front]) -> Front | None:
    """Return the front of a block that goes on by `split`, or None if nothing of it is of use."""
    splits, last = problem.splits, room.layer + 1 == len(problem.scores)
    blocks = splits.partition(split)
    # A single task has nothing left to decide, and after the last layer no block has.
    deciding = [] if last else [(i, block) for i, block in enumerate(blocks) if block & (block - 1)]
    cost = problem.costs[room.layer] * len(blocks) + room.tail * (len(blocks) - len(deciding))
    front = Front.of(cost, float(problem.scores[room.layer, split]), split, splits.tasks)
    for i, block in deciding:
        part = fronts.get((room.layer + 1, block))
        rest = [other for j, other in deciding if j > i]
        joined = None if part is None else join(front, part, i, partial(room.allows, rest))
        if joined is None:
            return None
        front = joined
    return front if room.allows([], front.cost, front.score).all() else None


def _trees(problem: Problem, fronts: dict[tuple[int, int], Front]) -> Iterator[Tree]:
    """Yield the trees of the front of all tasks at the first layer, best first."""
    root = fronts.get((0, problem.splits.full))
    if root is None:
        return

    def choose(layer: int, block: int, point: int) -> tuple[int, Iterable[int]]:
        front = fronts.get((layer, block))
        if front is None:  # a single task
            return problem.splits.of(block).start, repeat(0)
        return int(front.split[point]), front.picks[point].tolist()

    for point in root.best_first():
        yield _grow(problem, int(point), choose)

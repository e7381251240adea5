"""The lattice of all partitions of T tasks as arrays: order, meet, Moebius function, sums and their inverse.

A partition is a row of labels, its restricted growth string: the first task has label 0, every further one a label in
use or the next new one. Rows in lexicographic order are the canonical order of `costs.partitions`: one block first,
singletons last. Two facts make everything an array operation:

- The rank of a row is a sum over its labels, so a partition is found by arithmetic and not by search.
- What is coarser than a partition into b blocks is the lattice of b: its partitions, applied to the labels. So all
  pairs (fine, coarse) are one array per number of blocks, and the Moebius function is the same row for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from costs.errors import CostError
from costs.partitions import MOST_LISTED_TASKS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]

MOST_INTERVAL_TASKS = 10
"""The largest lattice whose intervals are listed: 16,733,779 of them for 10 tasks, in 64 MiB."""
_AT_ONCE = 1_000_000
"""Intervals ranked or summed at a time, which bounds the memory of intermediate arrays."""


@dataclass(frozen=True, eq=False)
class Interval:
    """All pairs of a partition into b blocks (`fine`) and one that is coarser or equal.

    Attributes:
        fine: (n,) the partitions into b blocks.
        coarse: (Bell(b), n) int32; coarse[p, i] joins the blocks of fine[i] as the p-th partition of b things says.
        moebius: (Bell(b),) mu(fine[i], coarse[p, i]), which depends on p alone.
        shape: the lattice of b things.
    """

    fine: Ints
    coarse: npt.NDArray[np.int32]
    moebius: Floats
    shape: Lattice


@dataclass(frozen=True, eq=False)
class Lattice:
    """All partitions of T tasks in canonical order; get one by `lattice_of`.

    Attributes:
        tasks: T.
        labels: (Bell(T), T) which block each task is in, blocks numbered by their first task.
        counts: (Bell(T),) how many blocks there are.
        blocks: (Bell(T), T) the blocks as bitmasks in the order of their first task, then zeros.
        pairs: (Bell(T),) the pairs of tasks that are together, as a bitmask over the T (T - 1) / 2 pairs.
    """

    tasks: int
    labels: Labels
    counts: Ints
    blocks: Ints
    pairs: Ints

    def __len__(self) -> int:
        """Return the number of partitions, the Bell number of T."""
        return len(self.labels)

    def rank(self, labels: npt.NDArray[np.integer]) -> Ints:
        """Return the numbers of partitions given as restricted growth strings, (..., T) -> (...)."""
        following = _completions(self.tasks)
        result = np.zeros(labels.shape[:-1], dtype=np.int64)
        used = np.zeros(labels.shape[:-1], dtype=np.int64)
        for t in range(self.tasks):
            label = labels[..., t]
            result += label * following[self.tasks - t - 1][used]
            used += label == used
        return result

    def refines(self, fine: npt.ArrayLike, coarse: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Say, element by element, whether the partitions numbered `fine` refine those numbered `coarse`."""
        result: npt.NDArray[np.bool_] = (self.pairs[np.asarray(fine)] & ~self.pairs[np.asarray(coarse)]) == 0
        return result

    def meet(self, one: npt.ArrayLike, other: npt.ArrayLike) -> Ints:
        """Return, element by element, the coarsest partition that refines both: together in both is together."""
        order, ordered = self._by_pairs
        found: Ints = order[np.searchsorted(ordered, self.pairs[np.asarray(one)] & self.pairs[np.asarray(other)])]
        return found

    def moebius(self, fine: npt.ArrayLike, coarse: npt.ArrayLike) -> Ints:
        """Return mu(fine, coarse) element by element, 0 where the one does not refine the other.

        The product of (-1)^(b-1) (b-1)! over the blocks of `coarse`, b being the number of blocks of `fine` in each
        (Stanley, Enumerative Combinatorics I, example 3.10.4).
        """
        below, above = np.broadcast_arrays(np.asarray(fine), np.asarray(coarse))
        result = self.refines(below, above).astype(np.int64)
        lowest = self._leaders[below]  # one task per block of `fine`
        for block in range(self.tasks):
            parts = (lowest & (self.labels[above] == block)).sum(axis=-1)
            result *= _signed_factorials(self.tasks)[parts]
        return result

    @cached_property
    def intervals(self) -> tuple[Interval, ...]:
        """All pairs of comparable partitions, for b = 1..T blocks of the finer one.

        Together sum_k Bell(blocks of k): 8 tasks 167,894, 9 tasks 1,606,137, 10 tasks 16,733,779. Raises CostError
        for more than `MOST_INTERVAL_TASKS` tasks.
        """
        if self.tasks > MOST_INTERVAL_TASKS:
            raise CostError(
                f"{self.tasks} tasks: sums over all groupings are formed for up to {MOST_INTERVAL_TASKS}; use a table "
                "whose costs are proportional to the number of groups, which needs none"
            )
        return tuple(self._interval(blocks) for blocks in range(1, self.tasks + 1))

    def zeta(self, values: Floats) -> Floats:
        """Sum over all coarser or equal partitions, (..., Bell(T)) -> the same shape.

        From the probabilities of the groupings this makes F, the probability of being `m` or coarser.
        """
        return self._over_coarser(values, [np.ones_like(interval.moebius) for interval in self.intervals])

    def unzeta(self, sums: Floats) -> Floats:
        """Inverse of `zeta`: sum_{m coarser or equal k} mu(k, m) sums[m], (..., Bell(T)) -> the same shape.

        Alternating: errors of `sums` come out up to T! times as large, and add up over the terms.
        """
        return self._over_coarser(sums, [interval.moebius for interval in self.intervals])

    def invert_costs(self, costs: Floats) -> Floats:
        """Return chat[m] = sum_{k finer or equal m} mu(k, m) costs[k], (..., Bell(T)) -> the same shape.

        With it sum_k P(k) costs[k] = sum_m F(m) chat[m]: F is `zeta` of P, so P(k) = sum_{m coarser or equal k} mu(k, m)
        F(m) (Stanley, Enumerative Combinatorics I, proposition 3.7.2), and the two sums change places.
        """
        rows = costs.reshape(-1, len(self))
        result = np.zeros_like(rows, dtype=np.float64)
        for interval in self.intervals:
            for part in interval_parts(interval):
                target = interval.coarse[:, part].ravel()
                for row, out in zip(rows, result, strict=True):
                    terms = np.multiply.outer(interval.moebius, row[interval.fine[part]]).ravel()
                    out += np.bincount(target, weights=terms, minlength=len(self))
        return result.reshape(costs.shape)

    def _over_coarser(self, values: Floats, weights: list[Floats]) -> Floats:
        rows = values.reshape(-1, len(self))
        result = np.empty_like(rows, dtype=np.float64)
        for interval, weight in zip(self.intervals, weights, strict=True):
            for part in interval_parts(interval):
                for row, out in zip(rows, result, strict=True):
                    out[interval.fine[part]] = weight @ row[interval.coarse[:, part]]
        return result.reshape(values.shape)

    def _interval(self, blocks: int) -> Interval:
        shape = lattice_of(blocks)
        fine = np.flatnonzero(self.counts == blocks)
        coarse = np.empty((len(shape), len(fine)), dtype=np.int32)
        step = max(1, _AT_ONCE // len(shape))
        for start in range(0, len(fine), step):
            part = slice(start, start + step)
            # A restricted growth string of blocks, applied to one of tasks, is one again.
            coarse[:, part] = self.rank(shape.labels[:, self.labels[fine[part]]])
        return Interval(fine, coarse, shape.moebius(len(shape) - 1, np.arange(len(shape))).astype(np.float64), shape)

    @cached_property
    def _by_pairs(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.pairs)
        return order, self.pairs[order]

    @cached_property
    def _leaders(self) -> npt.NDArray[np.bool_]:
        """Say which tasks are the lowest of their blocks, (Bell(T), T)."""
        running = np.maximum.accumulate(self.labels, axis=1)
        return np.concatenate([np.ones((len(self), 1), dtype=np.bool_), running[:, 1:] > running[:, :-1]], axis=1)


def interval_parts(interval: Interval) -> list[slice]:
    """Cut the columns of an interval so that each part has at most about a million pairs."""
    step = max(1, _AT_ONCE // len(interval.coarse))
    return [slice(start, start + step) for start in range(0, len(interval.fine), step)]


@lru_cache(maxsize=MOST_LISTED_TASKS)
def lattice_of(tasks: int) -> Lattice:
    """Return the lattice of so many tasks. Raises CostError unless 1 <= tasks <= `MOST_LISTED_TASKS`."""
    if not 1 <= tasks <= MOST_LISTED_TASKS:
        raise CostError(f"partitions of {tasks} tasks: listed for 1 to {MOST_LISTED_TASKS} tasks only")
    labels = np.zeros((1, 1), dtype=np.uint8)
    for _ in range(tasks - 1):
        ways = labels.max(axis=1).astype(np.int64) + 2  # each label in use, or the next one
        owner = np.repeat(np.arange(len(labels)), ways)
        label = np.arange(len(owner)) - np.repeat(np.cumsum(ways) - ways, ways)
        labels = np.column_stack([labels[owner], label.astype(np.uint8)])
    blocks = np.zeros(labels.shape, dtype=np.int64)
    rows = np.arange(len(labels))
    pairs = np.zeros(len(labels), dtype=np.int64)
    bit = 0
    for t in range(tasks):
        blocks[rows, labels[:, t]] |= 1 << t
        for u in range(t):
            pairs |= (labels[:, t] == labels[:, u]).astype(np.int64) << bit
            bit += 1
    lattice = Lattice(tasks, labels, labels.max(axis=1).astype(np.int64) + 1, blocks, pairs)
    for array in (lattice.labels, lattice.counts, lattice.blocks, lattice.pairs):
        array.flags.writeable = False  # one lattice serves all callers
    return lattice


@lru_cache(maxsize=MOST_LISTED_TASKS)
def _completions(tasks: int) -> Ints:
    """Return at [n, m] in how many ways n further tasks can follow where m labels are in use, (T, T + 1)."""
    table = np.ones((tasks, 2 * tasks + 1), dtype=np.int64)
    for n in range(1, tasks):
        for m in range(2 * tasks):  # more columns than asked for, since row n needs one of row n - 1 more
            table[n, m] = m * table[n - 1, m] + table[n - 1, m + 1] if m + n <= 2 * tasks else 0
    return table[:, : tasks + 1]


@lru_cache(maxsize=MOST_LISTED_TASKS)
def _signed_factorials(tasks: int) -> Ints:
    """Return (-1)^(b-1) (b-1)! at b, and 1 at 0, (T + 1,)."""
    return np.array([1] + [(-1) ** (b - 1) * math.factorial(b - 1) for b in range(1, tasks + 1)], dtype=np.int64)

"""How a block of tasks may split in one layer, all blocks and ways at once, and how probable each way is.

A split is a set of tasks together with one of its partitions. All splits of interest lie in flat arrays,
sorted by set, so that what a dynamic programme does with them is a gather and a segmented reduction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from costs.lattice import lattice_of
from costs.partitions import Partition, bell, canonical, partitions_up_to, restrict

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COMPLETE_TASKS = 8
"""Up to this many tasks all splits are looked at: Bell(9) - 1 = 21,146 of them."""
MOST_DECODED_TASKS = 14
"""Above this many tasks even the sets alone, 2^T of them in each layer, are too many for arrays."""
_MOST_SPLITS = 300_000
_MOST_CHOSEN = 24


@dataclass(frozen=True)
class Splits:
    """Splits of the non-empty subsets of T tasks; closed under the removal of a block from a split.

    Attributes:
        tasks: T.
        complete: whether these are all splits there are.
        sets: (S,) the set (bitmask) that split s splits, ascending.
        counts: (S,) how many blocks it has.
        starts: (S,) where its blocks begin in `blocks`.
        blocks: (F,) the blocks (bitmasks) of all splits, one split after the other.
        without: (F,) one plus the number of the split that is left when this block is removed, 0 if none is left.
        firsts: (2^T - 1,) the first split of the set A at position A - 1; it is the one that keeps A together.
    """

    tasks: int
    complete: bool
    sets: Ints
    counts: Ints
    starts: Ints
    blocks: Ints
    without: Ints
    firsts: Ints

    @property
    def full(self) -> int:
        """The set of all tasks."""
        return (1 << self.tasks) - 1

    def partition(self, split: int) -> Partition:
        """Return the blocks of one split, in canonical order."""
        start = int(self.starts[split])
        return tuple(int(block) for block in self.blocks[start : start + int(self.counts[split])])

    def of(self, subset: int) -> slice:
        """Return where the splits of one set lie."""
        end = self.firsts[subset] if subset < self.full else len(self.sets)
        return slice(int(self.firsts[subset - 1]), int(end))


def splits_for(probs: Floats) -> Splits:
    """Return the splits to look at for `probs` (L, T, C): all of them for up to `COMPLETE_TASKS` tasks.

    For more tasks these are, for every set: all partitions into a few blocks (as many as `_MOST_SPLITS`
    allows, for twelve tasks two), the singletons, and what the most probable draw of each layer makes of it.
    """
    tasks = probs.shape[1]
    if tasks <= COMPLETE_TASKS:
        return complete_splits(tasks)
    chosen: dict[Partition, None] = {tuple(1 << t for t in range(tasks)): None}
    for layer in probs.argmax(axis=2):
        chosen.setdefault(group_draws(layer), None)
    return _restricted(tasks, tuple(chosen)[:_MOST_CHOSEN])


def group_draws(draws: Iterable[int]) -> Partition:
    """Return the partition in which tasks with equal draws are together, in canonical order."""
    blocks: dict[int, int] = {}
    for t, draw in enumerate(draws):
        blocks[int(draw)] = blocks.get(int(draw), 0) | 1 << t
    return canonical(blocks.values())


def split_probabilities(probs: Floats, splits: Splits) -> Floats:
    """Return the probability of each split in each layer, (L, S), given that its set was together before.

    That the set A splits exactly into the blocks B_1..B_b means that the draws agree within each block and
    differ between blocks: the sum over injective maps j of prod_k w(B_k, j_k), with w(B, j) = prod_{t in B}
    p[t, j]. It is built candidate by candidate: candidate j
    goes to one block or to none. Only products and sums of positive numbers occur, so tiny probabilities keep
    all their digits, which the alternating sum of the inversion would lose.
    """
    layers, tasks, candidates = probs.shape
    weights = np.ones((layers, candidates, 1))
    for t in range(tasks):
        weights = np.concatenate([weights, weights * probs[:, t, :, None]], axis=2)  # w(B, j) at [l, j, B]
    result = np.empty((layers, len(splits.sets)))
    for layer in range(layers):
        reached = np.zeros(1 + len(splits.sets))
        reached[0] = 1.0  # the split without blocks
        for weight in weights[layer]:
            reached[1:] += np.add.reduceat(weight[splits.blocks] * reached[splits.without], splits.starts)
        result[layer] = reached[1:]
    result[:, (splits.sets & (splits.sets - 1)) == 0] = 1.0  # a single task cannot split
    return np.minimum(result, 1.0)


@lru_cache(maxsize=COMPLETE_TASKS)
def complete_splits(tasks: int) -> Splits:
    """Return all splits of all subsets of up to ten tasks; ten have 678,569 with 2.9 million blocks.

    A split is a partition of one element more, whose block with the extra element holds the tasks left out. With
    that element first its label is 0, and the order of the lattice, stably sorted by set, is the one wanted here.
    """
    lattice = lattice_of(tasks + 1)
    sets = _as_masks(lattice.labels[:, 1:] > 0)
    order = np.argsort(sets, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    labels = lattice.labels[order]
    counts = lattice.counts[order] - 1
    owner = np.repeat(np.arange(len(order)), counts)
    starts = np.cumsum(counts) - counts
    number = (np.arange(len(owner)) - starts[owner] + 1).astype(np.uint8)[:, None]
    left = labels[owner]
    blocks = _as_masks(left[:, 1:] == number)
    # Without the block its tasks are left out, and the labels above it move down by one.
    left = np.where(left == number, 0, left - (left > number)).astype(np.uint8)
    return Splits(
        tasks=tasks,
        complete=True,
        sets=sets[order][1:],  # the first is the split of the empty set, which is no split
        counts=counts[1:],
        starts=starts[1:],
        blocks=blocks,
        without=position[lattice.rank(left)],
        firsts=np.searchsorted(sets[order][1:], np.arange(1, 2**tasks)).astype(np.int64),
    )


def _as_masks(members: npt.NDArray[np.bool_]) -> Ints:
    """Return the sets that the rows of (n, T) name, as bitmasks (n,)."""
    masks = np.zeros(len(members), dtype=np.int64)
    for t in range(members.shape[1]):
        masks |= members[:, t].astype(np.int64) << t
    return masks


@lru_cache(maxsize=2)
def split_numbers(tasks: int) -> tuple[Ints, ...]:
    """Return which split each choice of blocks of each partition is, for `costs.groupings`.

    At position b - 1 stands an array (2^b, n) for the partitions into b blocks in canonical order: one plus the
    number, in `complete_splits`, of the split whose blocks are those that the bitmask over the b blocks names.
    """
    lattice, larger = lattice_of(tasks), lattice_of(tasks + 1)
    position = np.empty(len(larger), dtype=np.int64)
    position[np.argsort(_as_masks(larger.labels[:, 1:] > 0), kind="stable")] = np.arange(len(larger))
    result = []
    for b in range(1, tasks + 1):
        labels = lattice.labels[lattice.counts == b]
        chosen = np.arange(2**b)[:, None] >> np.arange(b) & 1
        renamed = (chosen * np.cumsum(chosen, axis=1)).astype(np.uint8)  # 0 where the block is left out
        wide = renamed[:, labels]
        result.append(position[larger.rank(np.concatenate([np.zeros_like(wide[..., :1]), wide], axis=-1))])
    return tuple(result)


@lru_cache(maxsize=2)
def _restricted(tasks: int, chosen: tuple[Partition, ...]) -> Splits:
    blocks = 1
    while blocks < tasks and _count(tasks, blocks + 1) <= _MOST_SPLITS:
        blocks += 1
    listed: list[tuple[int, Partition]] = []
    for mask in range(1, 2**tasks):
        few = dict.fromkeys(partitions_up_to(mask, blocks))
        few.update(dict.fromkeys(restrict(partition, mask) for partition in chosen))
        listed.extend((mask, part) for part in few)
    return pack_splits(tasks, listed, complete=len(listed) == bell(tasks + 1) - 1)


def _count(tasks: int, blocks: int) -> int:
    """Return how many splits into at most `blocks` blocks the subsets of so many tasks have.

    They are the partitions of one element more, whose block with the extra element holds the tasks left out:
    sums of Stirling numbers of the second kind.
    """
    row = [1]
    for _ in range(tasks + 1):
        row = [(row[k - 1] if k else 0) + k * (row[k] if k < len(row) else 0) for k in range(len(row) + 1)]
    return sum(row[: blocks + 2])


def pack_splits(tasks: int, listed: Sequence[tuple[int, Partition]], *, complete: bool) -> Splits:
    """Lay the splits out in arrays; `listed` is sorted by set and closed under the removal of a block."""
    numbers = {partition: 1 + s for s, (_, partition) in enumerate(listed)}
    numbers[()] = 0
    sets = np.array([mask for mask, _ in listed], dtype=np.int64)
    counts = np.array([len(partition) for _, partition in listed], dtype=np.int64)
    without = [numbers[p[:i] + p[i + 1 :]] for _, p in listed for i in range(len(p))]
    return Splits(
        tasks=tasks,
        complete=complete,
        sets=sets,
        counts=counts,
        starts=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
        blocks=np.array([block for _, p in listed for block in p], dtype=np.int64),
        without=np.array(without, dtype=np.int64),
        firsts=np.searchsorted(sets, np.arange(1, 2**tasks)).astype(np.int64),
    )

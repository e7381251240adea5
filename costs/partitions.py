"""Partitions of sets of tasks. A set is a bitmask (bit t stands for task t), a partition a tuple of such
masks.

Canonical order: blocks by their lowest task, partitions of a set by their restricted growth strings, so that
the one-block partition comes first and the singletons last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

from costs.errors import CostError

Partition = tuple[int, ...]
"""Blocks as bitmasks, ordered by their lowest bit."""

Grouping = tuple[tuple[int, ...], ...]
"""Which of the tasks 0..T-1 share a layer: groups of task indices, groups in the order of their first task and tasks
ascending in each. `((0, 2), (1,))` is two groups: tasks 0 and 2 share, task 1 is alone."""

MOST_LISTED_TASKS = 11
"""The largest set whose partitions are listed: Bell(11) = 678,570 of them."""


def partitions_of(mask: int) -> tuple[Partition, ...]:
    """Return all partitions of the set `mask` in canonical order; the empty set has one, without blocks.

    Raises CostError for sets of more than `MOST_LISTED_TASKS` tasks.
    """
    if mask < 0 or mask.bit_count() > MOST_LISTED_TASKS:
        raise CostError(
            f"partitions of a set of {mask.bit_count()} tasks (mask {mask}): listed for 0 to {MOST_LISTED_TASKS} tasks only"
        )
    return partitions_up_to(mask, mask.bit_count())


@cache
def partitions_up_to(mask: int, blocks: int) -> tuple[Partition, ...]:
    """Return the partitions of the set `mask` into at most `blocks` blocks, in canonical order."""
    if mask == 0:
        return ((),)
    top = 1 << (mask.bit_length() - 1)
    found: list[Partition] = []
    for rest in partitions_up_to(mask ^ top, blocks):
        found.extend((*rest[:i], block | top, *rest[i + 1 :]) for i, block in enumerate(rest))
        if len(rest) < blocks:
            found.append((*rest, top))
    return tuple(found)


def bell(n: int) -> int:
    """Return the n-th Bell number, how many partitions a set of n has: 1, 1, 2, 5, 15, 52, 203 for n = 0..6."""
    row = [1]  # the Bell triangle: each row starts with the last of the one before
    for _ in range(n):
        following = [row[-1]]
        for value in row:
            following.append(following[-1] + value)
        row = following
    return row[0]


def canonical(blocks: Iterable[int]) -> Partition:
    """Return the blocks without empty ones, ordered by their lowest bit."""
    return tuple(sorted((block for block in blocks if block), key=lambda block: block & -block))


def restrict(partition: Sequence[int], mask: int) -> Partition:
    """Return the partition that `partition` leaves on the tasks of the set `mask`."""
    return canonical(block & mask for block in partition)


def meet(one: Sequence[int], other: Sequence[int]) -> Partition:
    """Return the coarsest partition finer than both: tasks are together where both have them together."""
    return canonical(a & b for a in one for b in other)


def refines(fine: Sequence[int], coarse: Sequence[int]) -> bool:
    """Say whether both partition the same set and every block of `fine` lies within one of `coarse`."""
    return sum(fine) == sum(coarse) and all(any(a & b == a for b in coarse) for a in fine)


def moebius(fine: Sequence[int], coarse: Sequence[int]) -> int:
    """Return the Moebius function of the partition lattice, mu(fine, coarse).

    It is the product of (-1)^(b-1) (b-1)! over the blocks of `coarse`, b being the number of blocks of `fine`
    in each (Stanley, Enumerative Combinatorics I, example 3.10.4). Raises CostError unless `fine` refines
    `coarse`.
    """
    if not refines(fine, coarse):
        raise CostError(f"moebius: {tuple(fine)} does not refine {tuple(coarse)}, and it is defined only where it does")
    result = 1
    for block in coarse:
        parts = sum(1 for part in fine if part & block)
        result *= (-1) ** (parts - 1) * math.factorial(parts - 1)
    return result


def tasks_of(block: int) -> tuple[int, ...]:
    """Return the task indices of a bitmask in ascending order."""
    return tuple(t for t in range(block.bit_length()) if block >> t & 1)


def grouping_of(partition: Iterable[int]) -> Grouping:
    """Return the blocks as tuples of task indices, in canonical order."""
    return tuple(sorted(tasks_of(block) for block in partition))


def partition_of(grouping: Iterable[Iterable[int]], tasks: int) -> Partition:
    """Return the blocks as bitmasks, in canonical order. Raises CostError unless they partition 0..tasks-1."""
    blocks = [tuple(block) for block in grouping]
    if sorted(t for block in blocks for t in block) != list(range(tasks)):
        raise CostError(f"grouping {blocks}: expected a partition of the tasks 0 to {tasks - 1}, each in one block")
    return canonical(sum(1 << t for t in block) for block in blocks)


def write_key(partition: Iterable[int], names: Sequence[str]) -> str:
    """Return a partition as people write it, by task names: `semseg+parts|edge`."""
    return "|".join("+".join(names[t] for t in tasks_of(block)) for block in partition)


def read_key(text: str, names: Sequence[str]) -> Partition:
    """Return the partition that `text` names; tasks and blocks may come in any order, spaces do not matter.

    Raises CostError unless every name of `names`, and no other, is in exactly one block.
    """
    blocks = [[name.strip() for name in block.split("+")] for block in text.split("|")]
    if sorted(name for block in blocks for name in block) != sorted(names):
        example = write_key((2 ** len(names) - 1,), names)
        raise CostError(
            f"grouping {text!r}: expected each of the tasks {list(names)} once, joined by + within a group and by | "
            f"between groups, such as {example!r} for all together"
        )
    return canonical(sum(1 << names.index(name) for name in block) for block in blocks)

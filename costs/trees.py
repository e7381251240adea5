"""Trees to hold a search against: random ones of a given cost, and those in which all tasks part at one layer.

A tree is a tuple of L groupings in the form of `costs.partitions.Grouping`, each refining the one before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from costs.errors import BudgetBelowReach, CostError
from costs.partitions import Grouping, Partition, grouping_of, partitions_of
from costs.reach import budget_range, limits_of
from costs.table import CostTable
from costs.units import Budget, Resource

Tree = tuple[Grouping, ...]

MOST_DRAWS = 20_000
"""So many trees are drawn before a range of costs counts as empty: some seconds."""
MOST_TASKS = 10
AT_LEAST = 0.97
"""A random tree uses at least this share of a budget, if such trees come up at all."""


def random_tree(rng: random.Random, tasks: int, layers: int) -> Tree:
    """Draw a tree of `tasks` tasks and `layers` layers by refining groupings.

    A group that comes to be in layer l parts in one of the layers l..L, drawn uniformly (L: it never parts), into one of
    the partitions of its tasks into two or more groups, drawn uniformly. All trees can come; few are equally probable.
    """
    blocks: list[list[int]] = [[] for _ in range(layers)]  # of each layer, as bitmasks
    waiting = [(2**tasks - 1, 0)]
    while waiting:
        block, first = waiting.pop()
        parts_at = layers if block.bit_count() == 1 else rng.randint(first, layers)
        for layer in range(first, parts_at):
            blocks[layer].append(block)
        if parts_at == layers:
            continue
        partition = _parting(rng, block)
        for part in partition:
            blocks[parts_at].append(part)
            waiting.append((part, parts_at + 1))
    return tuple(grouping_of(partition) for partition in blocks)


def _parting(rng: random.Random, block: int) -> Partition:
    """Draw one of the partitions of `block` into two or more groups, uniformly."""
    partitions = partitions_of(block)
    whole = partitions.index((block,))
    drawn = rng.randrange(len(partitions) - 1)
    return partitions[drawn if drawn < whole else drawn + 1]


def random_tree_within(table: CostTable, budgets: Sequence[Budget | str], seed: int) -> tuple[Tree, float]:
    """Return a random tree within all budgets, and which share of the budget it uses that binds most.

    The first that `random_tree` draws from `seed` of those that use at least `AT_LEAST` of it; where none comes up in
    `MOST_DRAWS` draws, the one that uses most. Budgets beyond the dearest tree count as that. Without budgets the first
    tree drawn, of share 1. Raises BudgetBelowReach if the budgets exclude every tree, CostError for more than ten tasks, whose
    partitions are too many to draw from.
    """
    if len(table.tasks) > MOST_TASKS:
        raise CostError(f"{len(table.tasks)} tasks: random trees are drawn for up to {MOST_TASKS}; name fewer tasks")
    rng = random.Random(seed)  # noqa: S311 -- a draw, no secret
    limits = {r: min(v, budget_range(table, r)[1]) for r, v in limits_of(table, budgets).items()}
    if not limits:
        return random_tree(rng, len(table.tasks), len(table.layers)), 1.0
    best: tuple[Tree, float] | None = None
    for tree in _shared_then_drawn(rng, table):
        share = _share(table, limits, tree)
        if share <= 1 and (best is None or share > best[1]):
            best = tree, share
        if best is not None and best[1] >= AT_LEAST:
            break
    if best is None:
        raise BudgetBelowReach(f"none of {MOST_DRAWS} random trees is within all budgets together; raise one of them")
    return best


def parting_at(layer: int, tasks: int, layers: int) -> Tree:
    """Return the tree in which all tasks share the layers before `layer` and none from it on; L shares everything."""
    together: Grouping = (tuple(range(tasks)),)
    alone: Grouping = tuple((t,) for t in range(tasks))
    return (together,) * layer + (alone,) * (layers - layer)


def vanilla_tree(table: CostTable, budgets: Sequence[Budget | str]) -> Tree:
    """Return the tree in which all tasks part at one layer, the earliest for which the cost is within all budgets.

    Source: Bruggemann et al., BMVC 2020, section 4.3, "Vanilla". Raises BudgetBelowReach if no such tree is.
    """
    limits = limits_of(table, budgets)
    tasks, layers = len(table.tasks), len(table.layers)
    for layer in range(layers + 1):
        tree = parting_at(layer, tasks, layers)
        if _share(table, limits, tree) <= 1:
            return tree
    raise BudgetBelowReach(
        "no tree in which all tasks part at one layer is within all budgets together; raise one of them"
    )


def permuted_tree(tree: Sequence[Sequence[Sequence[int]]], seed: int) -> Tree:
    """Return `tree` with its tasks dealt anew to its branches, drawn uniformly from those pairings that change it.

    Source: Bruggemann et al., BMVC 2020, section 4.3, "Permutations". Raises CostError if no pairing changes the tree,
    as where all tasks share everything.
    """
    tasks = sorted(t for block in tree[0] for t in block)
    rng = random.Random(seed)  # noqa: S311 -- a draw, no secret
    # By layer, a set of sets: what is equal but for the order of groups is the same tree.
    original = [_as_sets(grouping) for grouping in tree]
    for _ in range(MOST_DRAWS):
        dealt = dict(zip(tasks, rng.sample(tasks, len(tasks)), strict=True))
        found = tuple(tuple(sorted(tuple(sorted(dealt[t] for t in block)) for block in grouping)) for grouping in tree)
        if [_as_sets(grouping) for grouping in found] != original:
            return found
    raise CostError(
        "whichever way the tasks are dealt to its branches, this tree stays the same, for they all stand alike in it; take a "
        "tree in which tasks are shared differently"
    )


def layers_different(one: Sequence[Grouping], other: Sequence[Grouping]) -> int:
    """Return in how many layers two trees of equal length have different groupings, whatever the order of groups."""
    return sum(_as_sets(a) != _as_sets(c) for a, c in zip(one, other, strict=True))


def _as_sets(grouping: Sequence[Sequence[int]]) -> set[frozenset[int]]:
    return {frozenset(block) for block in grouping}


def _shared_then_drawn(rng: random.Random, table: CostTable) -> Iterator[Tree]:
    """Yield the tree that shares everything, so that there is one for every budget in reach, then random ones."""
    tasks, layers = len(table.tasks), len(table.layers)
    yield parting_at(layers, tasks, layers)
    for _ in range(MOST_DRAWS):
        yield random_tree(rng, tasks, layers)


def _share(table: CostTable, limits: dict[Resource, float], tree: Tree) -> float:
    """Return the greatest share of a limit that `tree` uses, 0 without limits."""
    return max((table.architecture_cost(tree, r) / limit for r, limit in limits.items()), default=0.0)

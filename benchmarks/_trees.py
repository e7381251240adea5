"""Trees to hold a search against: random ones of a given cost, and those in which all tasks part at one layer.

A tree is a list of L groupings in the form of `costs.partitions.Grouping`, each refining the one before it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from costs.partitions import Grouping, grouping_of, partitions_of
from costs.table import CostTable
from costs.units import Budget

Tree = tuple[Grouping, ...]

MOST_DRAWS = 200_000
"""So many trees are drawn before a range of costs counts as empty: some seconds."""


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
        partition = rng.choice([p for p in partitions_of(block) if len(p) > 1])
        for part in partition:
            blocks[parts_at].append(part)
            waiting.append((part, parts_at + 1))
    return tuple(grouping_of(partition) for partition in blocks)


def random_trees(
    table: CostTable, budget: Budget, count: int, seed: int, at_least: float = 0.97, draws: int = MOST_DRAWS
) -> tuple[Tree, ...]:
    """Return `count` different random trees that cost between `at_least` times the budget and the budget, never more.

    The first ones that `random_tree` draws from `seed`. Raises ValueError if so many do not come up in `draws` draws.
    """
    rng = random.Random(seed)
    found: dict[Tree, None] = {}
    for _ in range(draws):
        if len(found) == count:
            return tuple(found)
        tree = random_tree(rng, len(table.tasks), len(table.layers))
        if at_least * budget.value <= table.architecture_cost(tree, budget.resource) <= budget.value:
            found[tree] = None
    raise ValueError(
        f"{len(found)} of {count} trees between {at_least:g} times {budget.text} and {budget.text} came up in {draws} "
        "draws; choose a budget further from the ends of the range, or fewer trees"
    )


def parting_at(layer: int, tasks: int, layers: int) -> Tree:
    """Return the tree in which all tasks share the layers before `layer` and none from it on; L shares everything."""
    together: Grouping = (tuple(range(tasks)),)
    alone: Grouping = tuple((t,) for t in range(tasks))
    return (together,) * layer + (alone,) * (layers - layer)


def vanilla_tree(table: CostTable, budget: Budget) -> Tree:
    """Return the tree in which all tasks part at one layer, the earliest for which the cost is within the budget.

    Source: Bruggemann et al., BMVC 2020, section 4.3, "Vanilla". Raises ValueError if not even the network that shares
    all layers is within it.
    """
    tasks, layers = len(table.tasks), len(table.layers)
    for layer in range(layers + 1):
        tree = parting_at(layer, tasks, layers)
        if table.architecture_cost(tree, budget.resource) <= budget.value:
            return tree
    raise ValueError(f"no tree is within {budget.text}")


def layers_different(one: Sequence[Grouping], other: Sequence[Grouping]) -> int:
    """Return in how many layers two trees of equal length have different groupings, whatever the order of groups."""
    return sum({frozenset(b) for b in a} != {frozenset(b) for b in c} for a, c in zip(one, other, strict=True))

"""Draws trees that cover the range of costs evenly: the networks that a table is fitted to and held against. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmtas.architecture import BranchedArchitecture
from costs.table import CostTable
from costs.units import Resource

_DRAWS = 4000


def sample_trees(table: CostTable, count: int, seed: int) -> list[BranchedArchitecture]:
    """Return `count` trees, no two with the same numbers of groups, spread evenly over the multiply-adds that trees can have.

    Fewer where there are not so many (two tasks and few layers). The all-shared network is not among them.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], BranchedArchitecture] = {}
    for _ in range(_DRAWS):
        tree = _tree(table, rng)
        if max(tree.group_counts) > 1:
            found.setdefault(tree.group_counts, tree)
    trees = sorted(found.values(), key=lambda tree: table.architecture_cost(tree.task_indices, Resource.MADDS))
    if len(trees) <= count:
        return trees
    costs = np.array([table.architecture_cost(tree.task_indices, Resource.MADDS) for tree in trees])
    return _spread(trees, costs, count)


def _spread(trees: list[BranchedArchitecture], costs: np.ndarray, count: int) -> list[BranchedArchitecture]:
    """Return for each of `count` costs, evenly from the least to the greatest, the nearest tree that is not taken yet."""
    free = np.ones(len(trees), dtype=bool)
    chosen = []
    for target in np.linspace(costs[0], costs[-1], count):
        index = int(np.argmin(np.where(free, np.abs(costs - target), np.inf)))
        free[index] = False
        chosen.append(index)
    return [trees[index] for index in sorted(chosen)]


def _tree(table: CostTable, rng: np.random.Generator) -> BranchedArchitecture:
    """Draw a tree: in each layer every group of several tasks splits in two, and its parts again, with one probability, drawn for the tree."""
    chance = 10 ** rng.uniform(-2.0, 0.0)
    groups: list[tuple[str, ...]] = [tuple(table.tasks)]
    groupings = []
    for _ in table.layers:
        groups = [part for group in groups for part in _split(group, chance, rng)]
        groupings.append(tuple(groups))
    return BranchedArchitecture(backbone=table.backbone, tasks=tuple(table.tasks), groupings=tuple(groupings))


def _split(group: tuple[str, ...], chance: float, rng: np.random.Generator) -> Sequence[tuple[str, ...]]:
    if len(group) == 1 or rng.random() >= chance:
        return [group]
    side = rng.random(len(group)) < 0.5
    parts = [tuple(t for t, s in zip(group, side, strict=True) if bool(s) is wanted) for wanted in (True, False)]
    return [smaller for part in parts if part for smaller in _split(part, chance, rng)]

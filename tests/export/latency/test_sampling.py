"""Sampled trees are all different, trees at all, and spread over what trees can cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from costs.units import Resource
from export.latency.sampling import sample_trees
from tests.export.latency.made_up import toy_table

FIVE = ("a", "b", "c", "d", "e")
DEEP = tuple(float(10e6 * (3 + i % 4)) for i in range(18))


def count_sequences(layers: int, tasks: int) -> set[tuple[int, ...]]:
    """All numbers of groups that trees can have, by enumeration: they never fall, and not all are 1."""
    found = set(itertools.combinations_with_replacement(range(1, tasks + 1), layers))
    return found - {(1,) * layers}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trees_are_different_and_refine_layer_by_layer(seed: int) -> None:
    trees = sample_trees(toy_table(FIVE, DEEP), 32, seed)
    assert len({tree.group_counts for tree in trees}) == len(trees) == 32
    for tree in trees:
        assert tree.group_counts[-1] > 1
        before = [set(FIVE)]
        for grouping in tree.groupings:
            assert sorted(name for block in grouping for name in block) == sorted(FIVE)
            assert all(any(set(block) <= parent for parent in before) for block in grouping)
            before = [set(block) for block in grouping]


@pytest.mark.parametrize("seed", [0, 1])
def test_trees_spread_evenly_over_the_multiply_adds(seed: int) -> None:
    table = toy_table(FIVE, DEEP)
    costs = [table.architecture_cost(t.task_indices, Resource.MADDS) for t in sample_trees(table, 20, seed)]
    assert costs == sorted(costs)
    shared, split = table.shared_total(Resource.MADDS), table.split_total(Resource.MADDS)
    assert costs[0] == shared + DEEP[-1]  # the last layer alone, in two
    assert costs[-1] == split
    ideal = np.linspace(costs[0], costs[-1], 20)
    assert np.abs(np.array(costs) - ideal).max() < 0.5 * (ideal[1] - ideal[0])


def test_where_few_trees_exist_all_of_them_are_taken() -> None:
    two = sample_trees(toy_table(("a", "b")), 40, 0)  # two tasks part in one of six layers
    assert {tree.group_counts for tree in two} == {(1,) * i + (2,) * (6 - i) for i in range(6)}
    three = {tree.group_counts for tree in sample_trees(toy_table(), 100, 0)}
    assert three == count_sequences(6, 3)
    assert len(three) == 27


def test_the_seed_decides() -> None:
    table = toy_table(FIVE, DEEP)
    assert sample_trees(table, 12, 3) == sample_trees(table, 12, 3)
    assert sample_trees(table, 12, 3) != sample_trees(table, 12, 4)

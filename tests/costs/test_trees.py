"""Random and vanilla trees: costs by hand, all trees by enumeration."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from _trees import layers_different, parting_at, random_tree, random_trees, vanilla_tree

from costs.partitions import Grouping
from costs.table import CostTable, FixedCost, LayerCost
from costs.units import Resource, parse_budget

# All partitions of three tasks.
PARTITIONS: list[Grouping] = [
    ((0, 1, 2),),
    ((0, 1), (2,)),
    ((0, 2), (1,)),
    ((0,), (1, 2)),
    ((0,), (1,), (2,)),
]
COSTS = (10.0, 20.0, 30.0)


def refines(fine: Grouping, coarse: Grouping) -> bool:
    return all(any(set(block) <= set(parent) for parent in coarse) for block in fine)


@pytest.fixture
def table() -> CostTable:
    """Three tasks, layers of 10, 20 and 30 MAdds, heads and stem of 5 together: 65 all shared, 185 with the stem alone."""
    return CostTable(
        backbone="toy",
        tasks=["a", "b", "c"],
        input_size=(8, 8),
        batch=1,
        layers=[LayerCost(name=f"layers.{i}", per_group={Resource.MADDS: cost}) for i, cost in enumerate(COSTS)],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 5.0})],
        provenance={},
    )


def test_random_trees_are_all_trees_of_three_tasks_and_nothing_else() -> None:
    trees = {pair for pair in itertools.product(PARTITIONS, repeat=2) if refines(pair[1], pair[0])}
    assert len(trees) == 12  # by hand: 5 below all together, 2 below each of the three pairs, 1 below all apart
    rng = random.Random(0)
    assert {random_tree(rng, 3, 2) for _ in range(2000)} == trees


def test_two_tasks_part_in_each_layer_equally_often() -> None:
    rng = random.Random(1)
    parted = Counter(sum(len(grouping) == 1 for grouping in random_tree(rng, 2, 3)) for _ in range(4000))
    assert set(parted) == {0, 1, 2, 3}
    # 1000 expected of each, standard deviation 27
    assert all(abs(count - 1000) < 140 for count in parted.values())


def test_random_trees_cost_what_was_asked_for_and_are_different(table: CostTable) -> None:
    trees = random_trees(table, parse_budget("125MAdds"), 6, 0, at_least=0.7)
    costs = [5 + sum(cost * len(grouping) for cost, grouping in zip(COSTS, tree, strict=True)) for tree in trees]
    assert len(set(trees)) == 6
    assert all(0.7 * 125 <= cost <= 125 for cost in costs), costs
    assert trees == random_trees(table, parse_budget("125MAdds"), 6, 0, at_least=0.7)
    assert trees != random_trees(table, parse_budget("125MAdds"), 6, 1, at_least=0.7)


def test_more_trees_than_there_are_is_said(table: CostTable) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 trees between 0\.97 times 65MAdds"):
        random_trees(table, parse_budget("65MAdds"), 2, 0, draws=500)  # all shared is the only one


# Parting at layer 2, 1, 0 adds 60, 40 and 20 MAdds.
@pytest.mark.parametrize(
    ("budget", "layer"),
    [("65MAdds", 3), ("124MAdds", 3), ("125MAdds", 2), ("164MAdds", 2), ("165MAdds", 1), ("1kMAdds", 0)],
)
def test_vanilla_parts_as_early_as_the_budget_allows(table: CostTable, budget: str, layer: int) -> None:
    tree = vanilla_tree(table, parse_budget(budget))
    assert tree == (((0, 1, 2),),) * layer + (((0,), (1,), (2,)),) * (3 - layer)
    assert tree == parting_at(layer, 3, 3)


def test_no_vanilla_tree_below_the_shared_network(table: CostTable) -> None:
    with pytest.raises(ValueError, match="no tree is within 64MAdds"):
        vanilla_tree(table, parse_budget("64MAdds"))


def test_layers_different_does_not_mind_the_order_of_groups() -> None:
    one: list[Grouping] = [((0, 1, 2),), ((0, 1), (2,)), ((0,), (1,), (2,))]
    other: list[Grouping] = [((2, 1, 0),), ((2,), (1, 0)), ((0, 2), (1,))]
    assert layers_different(one, one) == 0
    assert layers_different(one, other) == 1

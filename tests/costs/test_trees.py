"""Random and vanilla trees: costs by hand, all trees by enumeration."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from costs.errors import BudgetBelowReach, CostError
from costs.partitions import Grouping
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.trees import (
    AT_LEAST,
    layers_different,
    parting_at,
    permuted_tree,
    random_tree,
    random_tree_within,
    vanilla_tree,
)
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


def cost_of(tree: tuple[Grouping, ...]) -> float:
    return 5 + sum(cost * len(grouping) for cost, grouping in zip(COSTS, tree, strict=True))


def test_random_trees_use_most_of_the_budget_and_differ_by_seed(table: CostTable) -> None:
    drawn = [random_tree_within(table, [parse_budget("125MAdds")], seed) for seed in range(20)]
    for tree, share in drawn:
        assert share == cost_of(tree) / 125 <= 1
        assert share >= AT_LEAST
    assert len({tree for tree, _ in drawn}) > 1
    assert drawn[3] == random_tree_within(table, [parse_budget("125MAdds")], 3)


def test_where_no_random_tree_uses_that_much_the_costliest_is_taken(table: CostTable) -> None:
    # Costs go from 65 in steps of 10 (a part in layer 0 adds 10, but to the others, too): nothing from 65 to 94 but 65.
    assert random_tree_within(table, [parse_budget("94MAdds")], 0) == (parting_at(3, 3, 3), 65 / 94)
    tree, share = random_tree_within(table, [parse_budget("1kMAdds")], 0)
    assert cost_of(tree) / 185 == share >= AT_LEAST  # beyond the dearest tree, which has 185


def test_a_random_tree_keeps_every_budget(table: CostTable) -> None:
    both = table.model_copy(
        update={
            "layers": [
                LayerCost(
                    name=layer.name,
                    per_group={**layer.per_group, Resource.PARAMS: 60.0 - layer.per_group[Resource.MADDS]},
                )
                for layer in table.layers
            ],
            "fixed": [FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 5.0, Resource.PARAMS: 0.0})],
        }
    )
    for seed in range(4):
        tree, _ = random_tree_within(both, [parse_budget("165MAdds"), parse_budget("200Params")], seed)
        assert cost_of(tree) <= 165
        assert sum((60 - c) * len(g) for c, g in zip(COSTS, tree, strict=True)) <= 200


# Parting at layer 2, 1, 0 adds 60, 40 and 20 MAdds.
@pytest.mark.parametrize(
    ("budget", "layer"),
    [("65MAdds", 3), ("124MAdds", 3), ("125MAdds", 2), ("164MAdds", 2), ("165MAdds", 1), ("1kMAdds", 0)],
)
def test_vanilla_parts_as_early_as_the_budget_allows(table: CostTable, budget: str, layer: int) -> None:
    tree = vanilla_tree(table, [parse_budget(budget)])
    assert tree == (((0, 1, 2),),) * layer + (((0,), (1,), (2,)),) * (3 - layer)
    assert tree == parting_at(layer, 3, 3)


def test_no_vanilla_tree_below_the_shared_network(table: CostTable) -> None:
    with pytest.raises(BudgetBelowReach, match="64MAdds"):
        vanilla_tree(table, [parse_budget("64MAdds")])


def test_permutations_are_all_other_pairings_and_only_those() -> None:
    tree: tuple[Grouping, ...] = (((0, 1, 2),), ((0, 1), (2,)))
    found = {permuted_tree(tree, seed) for seed in range(40)}
    # By hand: the pair can be two other pairs; {0, 1} itself would be no change.
    assert found == {(((0, 1, 2),), ((0, 2), (1,))), (((0, 1, 2),), ((0,), (1, 2)))}


def test_what_no_permutation_changes_is_refused() -> None:
    with pytest.raises(CostError, match="stays the same"):
        permuted_tree(parting_at(1, 3, 2), 0)


def test_layers_different_does_not_mind_the_order_of_groups() -> None:
    one: list[Grouping] = [((0, 1, 2),), ((0, 1), (2,)), ((0,), (1,), (2,))]
    other: list[Grouping] = [((2, 1, 0),), ((2,), (1, 0)), ((0, 2), (1,))]
    assert layers_different(one, one) == 0
    assert layers_different(one, other) == 1

"""The least penalty within budgets, against all architectures enumerated."""

from __future__ import annotations

import numpy as np
import pytest

from costs.errors import BudgetBelowReach, CostError
from costs.least import groupings_of, least_architecture
from costs.partitions import Grouping, bell
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource, parse_budget


def table_of(costs: list[float], tasks: int) -> CostTable:
    return CostTable(
        backbone="toy",
        tasks=[f"t{i}" for i in range(tasks)],
        input_size=(8, 8),
        batch=1,
        layers=[LayerCost(name=f"layers.{i}", per_group={Resource.MADDS: cost}) for i, cost in enumerate(costs)],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 7.0})],
        provenance={},
    )


def refines(fine: Grouping, coarse: Grouping) -> bool:
    return all(any(set(block) <= set(parent) for parent in coarse) for block in fine)


def all_paths(tasks: int, layers: int) -> list[tuple[int, ...]]:
    groupings = groupings_of(tasks)
    below = [[k for k, fine in enumerate(groupings) if refines(fine, coarse)] for coarse in groupings]
    paths = [(k,) for k in range(len(groupings))]
    for _ in range(layers - 1):
        paths = [(*path, k) for path in paths for k in below[path[-1]]]
    return paths


@pytest.mark.parametrize("seed", range(12))
def test_least_penalty_is_that_of_the_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks, layers = 4, 3
    costs = rng.integers(1, 30, layers).astype(float).tolist()
    table, groupings = table_of(costs, tasks), groupings_of(tasks)
    assert len(groupings) == bell(tasks) == 15
    penalties = rng.random((layers, len(groupings)))
    budget = 7 + sum(costs) * rng.uniform(1, tasks)
    by_hand = min(
        (sum(penalties[layer, k] for layer, k in enumerate(path)), path)
        for path in all_paths(tasks, layers)
        if 7 + sum(costs[layer] * len(groupings[k]) for layer, k in enumerate(path)) <= budget
    )
    found = least_architecture(penalties, table, [parse_budget(f"{budget!r}MAdds")])
    assert found.penalty == pytest.approx(by_hand[0], abs=1e-9)
    assert found.groupings == tuple(groupings[k] for k in by_hand[1])
    assert (
        found.cost[Resource.MADDS] == 7 + sum(c * len(g) for c, g in zip(costs, found.groupings, strict=True)) <= budget
    )


def test_without_a_budget_the_penalty_alone_decides_and_equal_ones_the_cost() -> None:
    table = table_of([3.0, 5.0], 3)
    groupings = groupings_of(3)
    assert least_architecture(np.zeros((2, 5)), table, []).groupings == (((0, 1, 2),),) * 2
    penalties = np.array([[0.0 if len(g) == 3 else 1.0 for g in groupings]] * 2)
    assert least_architecture(penalties, table, []).groupings == (((0,), (1,), (2,)),) * 2


def test_what_does_not_fit_is_refused() -> None:
    table = table_of([3.0], 2)
    with pytest.raises(CostError, match=r"shape \(1, 3\)"):
        least_architecture(np.zeros((1, 3)), table, [])
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(CostError, match="finite numbers of 0 or more"):
            least_architecture(np.array([[0.0, bad]]), table, [])
    with pytest.raises(BudgetBelowReach, match="9MAdds"):
        least_architecture(np.zeros((1, 2)), table, ["9MAdds"])
    with pytest.raises(CostError, match="9 tasks"):
        groupings_of(9)


def test_eight_tasks_are_searched_whole() -> None:
    """Two tasks are alike, all others are not: only those two may stay together for free."""
    table, groupings = table_of([1.0, 1.0], 8), groupings_of(8)
    assert len(groupings) == 4140
    penalties = np.array([[sum(2.0 for b in g if len(b) > 1 and set(b) != {2, 5}) for g in groupings]] * 2)
    least = least_architecture(penalties, table, ["21MAdds"])
    assert least.penalty == 0
    assert least.groupings == (((0,), (1,), (2, 5), (3,), (4,), (6,), (7,)),) * 2

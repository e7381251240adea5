"""Decoding at its corners: decimal costs, products too small for a float, tables beyond eight tasks."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from costs import Budget, CostTable, LayerCost, Resource, best_architecture, budget_range, pareto_front
from costs.exact_sums import exact_multiple, exact_sum

Floats = npt.NDArray[np.float64]
M, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB


def counted(rows: list[list[float]]) -> CostTable:
    """A table of latencies per number of groups, nothing fixed."""
    return CostTable(
        backbone="toy",
        tasks=[f"t{t}" for t in range(len(rows[0]))],
        input_size=(8, 8),
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name=str(i), per_count={MS: row}) for i, row in enumerate(rows)],
        fixed=[],
        provenance={},
    )


@pytest.mark.parametrize("seed", range(6))
def test_tenths_add_up_to_the_budget_that_says_so(
    enumerate_draws: Callable[..., object], draw_probs: Callable[..., Floats], seed: int
) -> None:
    # In floats 0.3 + 0.4 + 0.5 is above 1.2, in tenths it is not; an architecture must not be lost over that.
    rng = np.random.default_rng(seed)
    tenths = np.cumsum(rng.integers(1, 4, (3, 3)), axis=1)
    table = counted((tenths / 10).tolist())
    probs = draw_probs(rng, 3, 3, 1.0)
    listed = enumerate_draws(probs).architectures()  # type: ignore[attr-defined]
    cost = {a: int(sum(tenths[i][len(g) - 1] for i, g in enumerate(a))) for a in listed}
    wanted, best = [], 0.0
    for limit in sorted(set(cost.values())):
        probable = max(p for a, p in listed.items() if cost[a] <= limit)
        found = best_architecture(probs, table, [Budget(MS, limit / 10, "")])
        assert (found.exact, found.cost[MS]) == (True, cost[found.groupings] / 10)
        assert math.exp(found.log_probability) == pytest.approx(probable, rel=1e-8)
        if probable > best * (1 + 1e-9):
            wanted.append(limit / 10)
            best = probable
    assert [entry.cost[MS] for entry in pareto_front(probs, table, MS)] == wanted


def test_sums_of_numbers_as_they_are_written() -> None:
    assert exact_sum([0.1, 0.2]) == 0.3 != 0.1 + 0.2
    assert exact_multiple(3, 0.1) == 0.3 != 3 * 0.1
    assert exact_sum([1e9, 0.001]) == 1000000000.001
    third = 1 / 3  # 16 digits: added up as the float that it is
    assert exact_sum([third, third, third]) == 1.0
    assert exact_sum([]) == 0.0


def test_what_is_only_just_possible_is_not_called_impossible() -> None:
    # Two pairs part in the same layer, each with 1e-200: the product is 0 as a float, its logarithm is not.
    rare = 1e-200
    probs = np.zeros((2, 4, 4))
    probs[0, :2, 0] = probs[0, 2:, 1] = 1.0  # {ab|cd}
    probs[1, [0, 2], 0], probs[1, [1, 3], 0], probs[1, [1, 3], 1] = 1.0, 1.0, rare
    table = counted([[5.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 1.0]])
    found = best_architecture(probs, table, [Budget(MS, 2.0, "")])
    assert found.groupings[-1] == ((0,), (1,), (2,), (3,))
    assert found.log_probability == pytest.approx(2 * math.log(rare), rel=1e-9)


@pytest.mark.parametrize("tasks", [9, pytest.param(11, marks=pytest.mark.slow)])
def test_the_same_question_has_the_same_answer_beyond_eight_tasks(
    draw_probs: Callable[..., Floats], tasks: int
) -> None:
    rng = np.random.default_rng(tasks)
    madds = rng.integers(1, 50, 5).astype(float)
    layers = [
        LayerCost(
            name=str(i),
            per_group={M: cost},
            per_count={MS: [cost * n for n in range(1, tasks + 1)], MIB: [1.0] * tasks},
        )
        for i, cost in enumerate(madds)
    ]
    table = CostTable(
        backbone="toy",
        tasks=[f"t{t}" for t in range(tasks)],
        input_size=(8, 8),
        batch=1,
        depends_on={M: "groups_proportional", MS: "group_count", MIB: "group_count"},
        layers=layers,
        fixed=[],
        provenance={},
    )
    probs = draw_probs(rng, 5, tasks, 1.5)
    low, high = budget_range(table, M)
    for share in (0.2, 0.6):
        limit = low + share * (high - low)
        asked = ([Budget(M, limit, "")], [Budget(MS, limit, "")], [Budget(M, limit, ""), Budget(MIB, 1e9, "")])
        found = [best_architecture(probs, table, budgets) for budgets in asked]
        for one, other in itertools.pairwise(found):
            assert other.log_probability >= one.log_probability - 1e-6
            assert other.cost[M] <= limit

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costs import (
    Budget,
    BudgetBelowReach,
    CostError,
    CostTable,
    Decoded,
    Resource,
    architecture_from_draws,
    argmax_architecture,
    best_architecture,
    budget_range,
    check_budgets,
    parse_budget,
)

Floats = npt.NDArray[np.float64]
MakeTable = Callable[..., CostTable]
Architecture = tuple[tuple[tuple[int, ...], ...], ...]
M, P, MS = Resource.MADDS, Resource.PARAMS, Resource.LATENCY_MS


def counts(architecture: Architecture) -> list[int]:
    return [len(grouping) for grouping in architecture]


def is_refining(architecture: Architecture, tasks: int) -> bool:
    before: tuple[tuple[int, ...], ...] = (tuple(range(tasks)),)
    for grouping in architecture:
        if sorted(t for block in grouping for t in block) != list(range(tasks)):
            return False
        if not all(any(set(block) <= set(parent) for parent in before) for block in grouping):
            return False
        before = grouping
    return True


def check_against_enumeration(
    probs: Floats, table: CostTable, listed: dict[Architecture, float], budgets: list[Budget]
) -> Decoded:
    """Hold a result to every architecture there is, found by enumeration of all draws."""
    found = best_architecture(probs, table, budgets)
    fitting = {
        architecture: probability
        for architecture, probability in listed.items()
        if all(table.architecture_cost(counts(architecture), b.resource) <= b.value for b in budgets)
    }
    best = max(fitting.values())
    assert found.exact
    assert math.exp(found.log_probability) == pytest.approx(best, rel=1e-8)
    assert listed[found.groupings] == pytest.approx(best, rel=1e-8)
    for resource in table.resources():
        assert found.cost[resource] == table.architecture_cost(counts(found.groupings), resource)
    equals = [a for a, probability in fitting.items() if probability >= best * (1 - 1e-12)]
    lowest = min(table.architecture_cost(counts(a), budgets[0].resource) for a in equals)
    assert found.cost[budgets[0].resource] == lowest
    return found


@pytest.mark.parametrize(("tasks", "candidates"), [(3, 3), (3, 2), (2, 4)])
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 3.0, 10.0])
def test_the_best_is_that_of_exhaustive_search_at_every_budget(
    make_table: MakeTable,
    draw_probs: Callable[..., Floats],
    enumerate_draws: Callable[..., object],
    tasks: int,
    candidates: int,
    sharpness: float,
) -> None:
    probs = draw_probs(np.random.default_rng(tasks + candidates), 3, tasks, sharpness, candidates)
    table = make_table(tasks, madds=[40, 13, 25])
    listed = enumerate_draws(probs).architectures()  # type: ignore[attr-defined]
    reached = sorted({table.architecture_cost(counts(a), M) for a in listed})
    seen = {
        check_against_enumeration(probs, table, listed, [Budget(M, cost + more, "")]).groupings
        for cost in reached
        for more in (0.0, 0.5)
    }
    assert len(seen) > 1


def test_two_budgets_at_once_are_met_as_well_as_possible(
    make_table: MakeTable, draw_probs: Callable[..., Floats], enumerate_draws: Callable[..., object]
) -> None:
    # The cheap layers in one resource are the dear ones in the other, so that the two budgets pull apart.
    table = make_table(3, madds=[40, 13, 25], params=[5, 50, 21])
    rng = np.random.default_rng(5)
    for sharpness in (0.5, 3.0):
        probs = draw_probs(rng, 3, 3, sharpness)
        listed = enumerate_draws(probs).architectures()  # type: ignore[attr-defined]
        for _ in range(40):
            limits = [Budget(r, float(rng.uniform(*budget_range(table, r))), "") for r in (M, P)]
            check_against_enumeration(probs, table, listed, limits)


def test_costs_that_are_no_whole_numbers(
    make_table: MakeTable, draw_probs: Callable[..., Floats], enumerate_draws: Callable[..., object]
) -> None:
    table = make_table(3, madds=[1, 1, 1], latency=[0.1, 0.7, 1 / 3])
    probs = draw_probs(np.random.default_rng(2), 3, 3, 2.0)
    listed = enumerate_draws(probs).architectures()  # type: ignore[attr-defined]
    for cost in sorted({table.architecture_cost(counts(a), MS) for a in listed}):
        check_against_enumeration(probs, table, listed, [Budget(MS, cost, "")])


@pytest.mark.parametrize("cases", [60, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_budget_is_ever_exceeded(make_table: MakeTable, draw_probs: Callable[..., Floats], cases: int) -> None:
    rng = np.random.default_rng(0)
    for case in range(cases):
        table = make_table(5, madds=rng.integers(10**7, 10**9, 18).tolist(), params=rng.uniform(1, 9, 18).tolist())
        low, high = budget_range(table, M)
        budgets = [Budget(M, low + min(max(rng.uniform(-0.02, 1.02), 0.0), 1.0) * (high - low), "")]
        if case % 10 == 0:
            low, high = budget_range(table, P)
            budgets.append(Budget(P, low + float(rng.uniform()) * (high - low), ""))
        probs = draw_probs(rng, 18, 5, float(rng.choice([3.0, 10.0, 30.0, 1000.0])))
        found = best_architecture(probs, table, budgets)
        assert found.exact
        assert is_refining(found.groupings, 5)
        for budget in budgets:
            assert table.architecture_cost(counts(found.groupings), budget.resource) <= budget.value
            assert found.cost[budget.resource] == table.architecture_cost(counts(found.groupings), budget.resource)


def test_without_need_for_sharing_the_most_probable_is_the_argmax(make_table: MakeTable) -> None:
    draws = np.array([[0, 0, 0, 1], [2, 2, 3, 0], [0, 1, 0, 0]])
    probs = np.full((3, 4, 4), 0.001)
    np.put_along_axis(probs, draws[..., None], 0.997, axis=2)
    table = make_table(4, madds=[1, 1, 1])
    expected = (((0, 1, 2), (3,)), ((0, 1), (2,), (3,)), ((0,), (1,), (2,), (3,)))
    assert argmax_architecture(probs) == architecture_from_draws(draws) == expected
    for budgets in ([], [parse_budget("1GMAdds")]):
        found = best_architecture(probs, table, budgets)
        assert found.groupings == expected
        assert found.cost == {M: 7 + 10 + 11 + 12 + 13 + 2 + 3 + 4}
        assert found.exact


def test_the_grouping_that_is_favoured_need_not_be_that_of_the_argmax(make_table: MakeTable) -> None:
    # Each task's first choice is its own, but the common second choices together are apart more often still.
    probs = np.array([[[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]]])
    assert argmax_architecture(probs) == (((0, 1),),)
    found = best_architecture(probs, make_table(2, madds=[1]), [])
    assert found.groupings == (((0,), (1,)),)
    assert math.exp(found.log_probability) == pytest.approx(1 - 0.16 - 0.09 - 0.09)


def test_excluded_architectures_are_the_last_resort(make_table: MakeTable) -> None:
    probs = np.zeros((2, 3, 3))
    probs[:, [0, 1, 2], [0, 1, 2]] = 1.0  # certain to be apart from the first layer on
    table = make_table(3, madds=[10, 10])
    free = best_architecture(probs, table, [Budget(M, table.split_total(M), "")])
    assert (counts(free.groupings), free.log_probability) == ([3, 3], 0.0)
    bound = best_architecture(probs, table, [Budget(M, table.shared_total(M), "")])
    assert (counts(bound.groupings), bound.log_probability) == ([1, 1], -math.inf)
    # One impossible event (staying together) and then the certain one is better than two.
    between = best_architecture(probs, table, [Budget(M, table.shared_total(M) + 20, "")])
    assert (counts(between.groupings), between.log_probability) == ([1, 3], -math.inf)
    assert bound.exact
    assert between.exact


def test_of_equal_probabilities_the_cheaper_is_taken(make_table: MakeTable) -> None:
    probs = np.full((1, 2, 2), 0.5)  # together or apart: 1/2 each
    found = best_architecture(probs, make_table(2, madds=[5]), [parse_budget("1GMAdds")])
    assert found.groupings == (((0, 1),),)
    assert best_architecture(probs, make_table(2, madds=[5]), []).groupings == (((0, 1),),)


def test_several_budgets_for_one_resource_mean_the_least(make_table: MakeTable) -> None:
    probs = np.eye(3)[None].repeat(2, axis=0)
    table = make_table(3, madds=[10, 10])
    tight, loose = Budget(M, table.shared_total(M), ""), Budget(M, 1e9, "")
    assert best_architecture(probs, table, [tight, loose]).cost == best_architecture(probs, table, [loose, tight]).cost
    assert best_architecture(probs, table, [loose, tight]).cost[M] == table.shared_total(M)


@pytest.mark.parametrize("tasks", [1, 8])
def test_other_numbers_of_tasks(make_table: MakeTable, draw_probs: Callable[..., Floats], tasks: int) -> None:
    table = make_table(tasks, madds=[30, 20, 50, 10])
    low, high = budget_range(table, M)
    found = best_architecture(
        draw_probs(np.random.default_rng(1), 4, tasks, 4.0), table, [Budget(M, (low + high) / 2, "")]
    )
    assert found.exact
    assert is_refining(found.groupings, tasks)


def test_twelve_tasks_keep_the_budget_and_find_what_is_clear(
    make_table: MakeTable, draw_probs: Callable[..., Floats]
) -> None:
    table = make_table(12, madds=[30, 20, 50])
    low, high = budget_range(table, M)
    found = best_architecture(
        draw_probs(np.random.default_rng(1), 3, 12, 3.0), table, [Budget(M, 0.5 * (low + high), "")]
    )
    assert found.cost[M] <= 0.5 * (low + high)
    assert is_refining(found.groupings, 12)
    assert not found.exact
    draws = np.arange(12) // [[6], [3], [2]]  # 2, 4 and 6 candidates in use, nearly certain
    probs = np.full((3, 12, 12), 1e-4)
    np.put_along_axis(probs, draws[..., None], 1 - 11e-4, axis=2)
    assert best_architecture(probs, table, []).groupings == architecture_from_draws(draws)


# The fixture is a pure builder, nothing that examples could share.
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_permuting_tasks_permutes_the_result(make_table: MakeTable, seed: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    table = make_table(4, madds=rng.integers(10, 100, 5).tolist())
    low, high = budget_range(table, M)
    budgets = [Budget(M, low + part * (high - low), "")]
    logits = 2.0 * rng.normal(size=(5, 4, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    order = rng.permutation(4)
    found, shuffled = best_architecture(probs, table, budgets), best_architecture(probs[:, order], table, budgets)
    assert shuffled.log_probability == pytest.approx(found.log_probability, rel=1e-12)
    renamed = tuple(
        tuple(sorted(tuple(sorted(int(order[t]) for t in block)) for block in grouping))
        for grouping in shuffled.groupings
    )
    assert renamed == found.groupings


def test_a_budget_below_reach_is_refused_with_the_range(make_table: MakeTable) -> None:
    table = make_table(3, madds=[2e9, 1e9], params=[2e6, 1e6], latency=[3.0, 2.0])
    probs = np.full((2, 3, 3), 1 / 3)
    with pytest.raises(BudgetBelowReach) as caught:
        best_architecture(probs, table, [parse_budget("2GMAdds")])
    for word in ["2GMAdds", "madds", "3.001 GMAdds", "all layers shared", "9.000 GMAdds", "only the stem", "Raise the"]:
        assert word in str(caught.value)
    with pytest.raises(BudgetBelowReach) as caught:
        check_budgets(table, [parse_budget(text) for text in ("2GMAdds", "5MParams", "12ms")])
    for word in ["2GMAdds (madds)", "12ms (latency_ms)", "45.00 ms", "the other budgets, 5MParams, can be met"]:
        assert word in str(caught.value)
    check_budgets(table, [parse_budget("3.001GMAdds")])  # what the message names as reachable is
    with pytest.raises(CostError, match="knows madds, not params"):
        best_architecture(probs, make_table(3, madds=[1, 1]), [parse_budget("1kParams")])


@pytest.mark.parametrize(
    ("probs", "words"),
    [
        (np.full((2, 3, 3), 0.3), "differs from a distribution"),
        (np.full((2, 3, 3), math.nan), "by nan"),
        (np.full((3, 3, 3), 1 / 3), "(layers, tasks, candidates) = (2, 3, C)"),
        (np.full((2, 3), 1 / 3), "(2, 3)"),
    ],
)
def test_what_is_no_distribution_is_refused(make_table: MakeTable, probs: Floats, words: str) -> None:
    with pytest.raises(CostError) as caught:
        best_architecture(probs, make_table(3, madds=[1, 1]), [])
    assert words in str(caught.value)


def test_what_are_no_draws_is_refused() -> None:
    for draws in (np.zeros((2, 3)), np.zeros(3, dtype=int), np.zeros((0, 3), dtype=int)):
        with pytest.raises(CostError, match="expected whole numbers"):
            architecture_from_draws(draws)


def test_too_many_tasks_are_refused(make_table: MakeTable) -> None:
    with pytest.raises(CostError, match=r"15 tasks: .* up to 14"):
        best_architecture(np.full((1, 15, 2), 0.5), make_table(15, madds=[1]), [])

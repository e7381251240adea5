"""Arguments of other types than the ones meant: taken where the meaning is clear, else refused with the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from costs import (
    Budget,
    BudgetBelowReach,
    CostError,
    CostTable,
    Multiplier,
    Resource,
    architecture_from_draws,
    argmax_architecture,
    best_architecture,
    check_budgets,
    expected_cost,
    expected_from_groupings,
    expected_groups,
    expected_layer_costs,
    grouping_probabilities,
    pareto_front,
    parse_budget,
    sharing_probabilities,
)
from costs.published import published_layer_costs
from costs.subsets import expected_groups_of

MADDS = Resource.MADDS
PROBS = np.array([[[0.8, 0.2], [0.7, 0.3]], [[0.5, 0.5], [0.1, 0.9]]])


@pytest.fixture
def table(make_table: Callable[..., CostTable]) -> CostTable:
    # Two tasks; stem 7 and heads 10 and 11. All shared 328, split 628.
    return make_table(2, madds=[100, 200], params=[1, 2])


@pytest.mark.parametrize("wrong", [PROBS, PROBS.tolist(), None])
def test_what_is_differentiable_asks_for_a_tensor(table: CostTable, wrong: Any) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: sharing_probabilities(wrong),
        lambda: expected_groups(wrong),
        lambda: expected_cost(wrong, table, MADDS),
        lambda: expected_layer_costs(wrong, table, MADDS),
        lambda: published_layer_costs(wrong, table, MADDS),
    ]
    for ask in asked:
        with pytest.raises(CostError, match=rf"found {type(wrong).__name__}, expected a torch.Tensor.*torch.as_tensor"):
            ask()


@pytest.mark.parametrize("grad", [False, True])
def test_what_needs_no_torch_takes_tensors(table: CostTable, grad: bool) -> None:
    tensor: Any = torch.tensor(PROBS, requires_grad=grad)
    for ask in (grouping_probabilities, expected_groups_of, lambda p: expected_from_groupings(p, table, MADDS)):
        np.testing.assert_array_equal(ask(tensor), ask(PROBS))
    assert argmax_architecture(tensor) == argmax_architecture(PROBS)
    assert best_architecture(tensor, table, []) == best_architecture(PROBS, table, [])
    assert pareto_front(tensor, table, MADDS) == pareto_front(PROBS, table, MADDS)
    draws = PROBS.argmax(axis=2)
    assert architecture_from_draws(torch.tensor(draws)) == architecture_from_draws(draws)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["abc", [[[0.5, 0.5], [1.0]]], {"a": 1}, None])
def test_what_is_no_array_of_numbers_is_refused(table: CostTable, wrong: Any) -> None:
    for ask in (grouping_probabilities, argmax_architecture, lambda p: best_architecture(p, table, [])):
        with pytest.raises(CostError, match=r"probabilities.*expected .*\(layers, tasks, candidates\)"):
            ask(wrong)


def test_resources_may_be_given_by_their_keys(table: CostTable) -> None:
    tensor, key = torch.tensor(PROBS), "madds"
    assert expected_cost(tensor, table, key) == expected_cost(tensor, table, MADDS)  # type: ignore[arg-type]
    assert pareto_front(PROBS, table, key) == pareto_front(PROBS, table, MADDS)  # type: ignore[arg-type]
    assert Budget("params", 20.0, "20Params").resource is Resource.PARAMS  # type: ignore[arg-type]
    for ask in (lambda: expected_cost(tensor, table, "watts"), lambda: Budget("watts", 1.0, "1W")):  # type: ignore[arg-type]
        with pytest.raises(
            CostError, match="found 'watts', known: madds, params, latency_ms, energy_mj, peak_memory_mib"
        ):
            ask()


TAKERS: list[Callable[[CostTable, Any], Any]] = [
    lambda table, budgets: best_architecture(PROBS, table, budgets),
    check_budgets,
    Multiplier,
]


@pytest.mark.parametrize("take", TAKERS, ids=["best_architecture", "check_budgets", "Multiplier"])
def test_budgets_may_be_texts_and_are_a_sequence(table: CostTable, take: Callable[[CostTable, Any], Any]) -> None:
    take(table, ["400MAdds", parse_budget("33Params")])
    with pytest.raises(BudgetBelowReach, match="budget 300MAdds"):
        take(table, ["300MAdds"])
    for alone in ("400MAdds", parse_budget("400MAdds"), None):
        with pytest.raises(CostError, match=r"alone, expected a sequence of budgets; give \["):
            take(table, alone)
    with pytest.raises(
        CostError, match="budget 400: found int, expected a number and a unit as text; write for example"
    ):
        take(table, [400])


def test_texts_mean_what_the_budgets_mean(table: CostTable) -> None:
    assert best_architecture(PROBS, table, ["400MAdds"]) == best_architecture(PROBS, table, [parse_budget("400MAdds")])
    assert check_budgets(table, ["400MAdds"]) == (parse_budget("400MAdds"),)


def test_a_multiplier_takes_what_float_takes(table: CostTable) -> None:
    plain, other = Multiplier(table, ["400MAdds"]), Multiplier(table, ["400MAdds"])
    cost: Any = torch.tensor(450.0, dtype=torch.float64, requires_grad=True)
    assert other.update({MADDS: cost}) == plain.update({MADDS: 450.0})
    assert type(other.values[MADDS]) is float
    for wrong in ({MADDS: "much"}, {MADDS: torch.ones(2)}, {MADDS: None}):
        with pytest.raises(CostError, match=r"expected cost in madds: found .* needs a finite number"):
            other.update(wrong)  # type: ignore[arg-type]
    with pytest.raises(CostError, match=r"found 450.0, expected a mapping; give \{resource: cost\}"):
        other.update(450.0)  # type: ignore[arg-type]
    assert other.values == plain.values

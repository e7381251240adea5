import json
import math
from collections.abc import Callable, Iterator

import pytest
import torch

from costs import Budget, BudgetBelowReach, CostError, CostTable, Multiplier, Resource, expected_cost

MakeTable = Callable[..., CostTable]
M, P = Resource.MADDS, Resource.PARAMS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Tensors of a few numbers: threads that wait for each other take ten times as long on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def part_way(table: CostTable, resource: Resource, part: float) -> Budget:
    """A budget at this part of the way from all layers shared to only the stem shared."""
    low, high = table.shared_total(resource), table.split_total(resource)
    return Budget(resource, low + part * (high - low), "")


def toy_search(
    table: CostTable, budgets: list[Budget], steps: int = 400
) -> tuple[dict[Resource, float], dict[Resource, float]]:
    """Search with three tasks that want candidates of their own; return the expected costs and the multipliers."""
    alpha = torch.zeros(6, 3, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([alpha], lr=0.05)
    multiplier = Multiplier(table, budgets)
    for _ in range(steps):
        probs = alpha.softmax(-1)
        expected = {budget.resource: expected_cost(probs, table, budget.resource) for budget in budgets}
        weights = multiplier.update({resource: cost.item() for resource, cost in expected.items()})
        task_loss = -sum(probs[:, t, t].log().mean() for t in range(3))
        cost_loss = sum(weights[b.resource] * expected[b.resource] / b.value for b in budgets)
        optimiser.zero_grad()
        (task_loss + cost_loss).backward()
        optimiser.step()
    final = alpha.detach().softmax(-1)
    return {r: expected_cost(final, table, r).item() for r in table.resources()}, multiplier.values


@pytest.mark.parametrize("part", [0.15, 0.4, 0.75])
def test_the_expected_cost_is_driven_to_the_budget(make_table: MakeTable, part: float) -> None:
    table = make_table(3, madds=[300, 500, 200, 700, 400, 900])
    budget = part_way(table, M, part)
    assert toy_search(table, [budget])[0][M] == pytest.approx(budget.value, rel=0.03)


def test_of_two_budgets_the_tighter_one_is_met_and_the_other_has_no_weight(make_table: MakeTable) -> None:
    table = make_table(3, madds=[300, 500, 200, 700, 400, 900], params=[30, 50, 20, 70, 40, 90])
    tight, loose = part_way(table, M, 0.4), part_way(table, P, 0.7)
    found, weights = toy_search(table, [tight, loose])
    assert found[M] == pytest.approx(tight.value, rel=0.03)
    assert weights[M] > 0
    assert weights[P] == 0  # at first it had: nothing was shared yet


def test_two_budgets_that_pull_apart_are_both_met(make_table: MakeTable) -> None:
    # MAdds lie in the early layers, parameters in the late ones, and the tasks want to share nothing. The budget of
    # MAdds alone leaves all late layers split, that of parameters alone leaves early layers less shared than MAdds need.
    table = make_table(3, madds=[900, 900, 400, 90, 20, 20], params=[5, 5, 20, 90, 200, 200])
    budgets = [part_way(table, M, 0.15), part_way(table, P, 0.6)]
    both, weights = toy_search(table, budgets, steps=500)
    for budget, other in (budgets, budgets[::-1]):
        assert both[budget.resource] == pytest.approx(budget.value, rel=0.03)
        assert weights[budget.resource] > 1
        without, _ = toy_search(table, [other], steps=500)
        assert without[other.resource] == pytest.approx(other.value, rel=0.03)
        assert without[budget.resource] > 1.07 * budget.value  # so it binds


def test_updates_by_hand(make_table: MakeTable) -> None:
    table = make_table(3, madds=[100])  # shared 140, only the stem shared 340: a reach of 200
    multiplier = Multiplier(table, [Budget(M, 240.0, "240MAdds")], maximum=60)
    assert multiplier.values == {M: 0.0}
    assert multiplier.update({M: 340.0}) == {M: pytest.approx(0.05 * 0.5 + 50 * 0.5)}
    integral = 0.025 + 0.05 * 0.01 * 1.025
    assert multiplier.update({M: 242.0})[M] == pytest.approx(integral + 50 * 0.01 * 1.025)
    assert multiplier.update({M: 140.0}) == {M: 0.0}
    for _ in range(300):
        multiplier.update({M: 340.0})
    assert multiplier.values == {M: 60.0}


def test_a_budget_above_every_network_has_no_weight(make_table: MakeTable) -> None:
    multiplier = Multiplier(make_table(2, madds=[1]), [Budget(M, math.inf, "")])
    assert multiplier.update({M: 30.0}) == {M: 0.0}
    assert Multiplier(make_table(1, madds=[1]), [Budget(M, 18.0, "")]).update({M: 18.0}) == {M: 0.0}


def test_the_state_is_json_and_continues_where_it_was(make_table: MakeTable) -> None:
    table = make_table(3, madds=[100])
    budgets = [Budget(M, 240.0, "240MAdds")]
    first = Multiplier(table, budgets)
    for cost in (300.0, 280.0, 250.0):
        first.update({M: cost})
    second = Multiplier(table, budgets)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.values == first.values
    assert second.update({M: 245.0}) == first.update({M: 245.0})
    assert second.state_dict() == first.state_dict()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "'integrals' is None, expected one number for each budget: madds"),
        ({"integrals": {"params": 1.0}}, "with the budgets that it was started with"),
        ({"integrals": {"madds": math.nan}}, "integrals.madds is nan"),
        ({"integrals": {"madds": 1.0}, "values": {"madds": "1"}}, "values.madds is '1'"),
        ({"integrals": {"madds": 1.0}, "values": {"madds": 1.0}, "updates": -1}, "'updates' is -1"),
    ],
)
def test_a_broken_state_is_refused(make_table: MakeTable, state: dict[str, object], words: str) -> None:
    multiplier = Multiplier(make_table(3, madds=[100]), [Budget(M, 240.0, "")])
    with pytest.raises(CostError) as caught:
        multiplier.load_state_dict(state)
    assert words in str(caught.value)
    assert multiplier.values == {M: 0.0}


def test_wrong_use_is_refused(make_table: MakeTable) -> None:
    table = make_table(3, madds=[100])
    with pytest.raises(BudgetBelowReach, match="reachable is 140"):
        Multiplier(table, [Budget(M, 139.0, "139MAdds")])
    with pytest.raises(CostError, match="maximum of the multiplier: found -1"):
        Multiplier(table, [], maximum=-1)
    multiplier = Multiplier(table, [Budget(M, 240.0, "")])
    with pytest.raises(CostError, match="madds: found nan"):
        multiplier.update({M: math.nan})
    with pytest.raises(CostError, match="madds: found none"):
        multiplier.update({Resource.PARAMS: 1.0})

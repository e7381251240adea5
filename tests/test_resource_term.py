"""What the cost adds to the loss: by hand, for each kind of term."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from bmtas.config import PRESETS, CostEstimate, Preset, SearchSettings
from bmtas.methods.branched.losses import expected_costs
from bmtas.resource_term import ResourceTerm
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Budget, Resource

M, P = Resource.MADDS, Resource.PARAMS


def settings(**changes: object) -> SearchSettings:
    return SearchSettings.model_validate({**PRESETS[Preset.QUICK].search.model_dump(), **changes})


@pytest.fixture
def table() -> CostTable:
    """Two tasks, two layers: a group costs 1 and 3 GMAdds, stem and heads 2 together."""
    layers = [
        LayerCost(name="a", per_group={M: 1e9, P: 10.0}),
        LayerCost(name="b", per_group={M: 3e9, P: 40.0}),
    ]
    fixed = [FixedCost(name="stem", shared=True, tasks=[], cost={M: 2e9, P: 5.0})]
    return CostTable(
        backbone="toy", tasks=["x", "y"], input_size=(8, 8), batch=1, layers=layers, fixed=fixed, provenance={}
    )


def half_apart() -> torch.Tensor:
    """Logits by which the tasks are together with probability 1/2 in each layer: 1/2, then 1/4."""
    return torch.zeros(2, 2, 2, requires_grad=True)


EXPECTED = 2e9 + 1e9 * 1.5 + 3e9 * 1.75  # one or two groups


def test_a_fixed_weight_is_loss_per_expected_gmadds(table: CostTable) -> None:
    term = ResourceTerm([], {}, settings(resource_term="weight", resource_weight=0.3))
    record: dict[str, float] = {}
    logits = half_apart()
    value = term(expected_costs(logits, table, [M]), 7.0, record)
    assert value.item() == pytest.approx(0.3 * EXPECTED / 1e9)  # whatever the task losses are
    assert record == {"expected.madds": pytest.approx(EXPECTED)}
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # Both tasks towards the first candidate: by symmetry the agreement does not change to first order.
    assert logits.grad.abs().max() < 1e-9


def test_no_term_adds_nothing_and_still_shows_the_cost(table: CostTable) -> None:
    term = ResourceTerm([], {}, settings(resource_term="none"))
    record: dict[str, float] = {}
    assert term(expected_costs(half_apart(), table, [M]), 7.0, record).item() == 0
    assert record == {"expected.madds": pytest.approx(EXPECTED)}


def test_a_budget_weighs_by_the_task_losses_and_the_multiplier(table: CostTable) -> None:
    # Reach 6 to 10 GMAdds; expected 8.75, budget 8: the gap is 0.75 / 4.
    term = ResourceTerm([Budget(M, 8e9, "8GMAdds")], {M: 4e9}, settings())
    record: dict[str, float] = {}
    value = term(expected_costs(half_apart(), table, [M]), 7.0, record)
    gap = 0.75 / 4
    multiplier = 0.05 * gap + 50 * gap * (1 + 0.05 * gap * 0)  # the integral after this update, and the scale before it
    assert record["multiplier.madds"] == pytest.approx(multiplier, rel=1e-9)
    assert value.item() == pytest.approx(7.0 * multiplier * EXPECTED / 8e9, rel=1e-9)
    assert not term.within(expected_costs(half_apart(), table, [M]))
    together = torch.tensor([[[20.0, 0.0]] * 2] * 2)
    assert term.within(expected_costs(together, table, [M]))


def test_the_published_estimate_of_three_tasks_is_above_the_exact_one() -> None:
    layers = [LayerCost(name=str(i), per_group={M: 1e9}) for i in range(2)]
    table = CostTable(
        backbone="toy", tasks=["x", "y", "z"], input_size=(8, 8), batch=1, layers=layers, fixed=[], provenance={}
    )
    # Certain draws {xy|z}, then {xz|y}: built are 2 and 3 groups. Eq. 6 charges all three where no refinement is drawn.
    logits = torch.full((2, 3, 3), -40.0)
    for layer, draw in enumerate(((0, 0, 1), (0, 1, 0))):
        for task, candidate in enumerate(draw):
            logits[layer, task, candidate] = 40.0
    exact, published = (
        expected_costs(logits, table, [M], CostEstimate(kind))[M].item() for kind in ("exact", "published")
    )
    assert exact == pytest.approx(5e9)
    assert published == pytest.approx(5e9)  # with three tasks what is left over is all apart as well
    uniform = torch.zeros(2, 3, 3)
    exact, published = (
        expected_costs(uniform, table, [M], CostEstimate(kind))[M].item() for kind in ("exact", "published")
    )
    # By hand, with q = 1/3 (two agree) and r = 1/9 (all agree): groups = 3 - 3 q^l + r^l.
    assert exact == pytest.approx(1e9 * (3 - 1 + 1 / 9 + 3 - 1 / 3 + 1 / 81))
    # Own draw: all together 1/9, each pair 2/9, apart 2/9. Eq. 6 in layer 2: together 1/81, each pair 2/9 (1/9 + 2/9),
    # and what is left, 1 - 1/81 - 18/81, is charged three groups (all apart among it).
    assert published == pytest.approx(1e9 * (1 / 9 + 3 * 2 / 9 * 2 + 2 / 9 * 3 + 1 / 81 + 18 / 81 * 2 + 62 / 81 * 3))
    assert published > exact


def test_a_weight_belongs_to_the_term_weight_alone() -> None:
    for changes in (
        {"resource_weight": 0.1},
        {"resource_term": "weight"},
        {"resource_term": "none", "resource_weight": 1},
    ):
        with pytest.raises(ValidationError, match="belongs to the term 'weight'"):
            settings(**changes)

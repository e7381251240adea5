"""The price that keeps the expected cost of MTL-NAS within its budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from bmtas.methods.mtl_nas.losses import entropies
from bmtas.methods.mtl_nas.price import Price
from costs.units import Budget, Resource

COSTS = torch.tensor([1.0, 9.0, 4.0, 1.0, 6.0], dtype=torch.float64) * 1000
PARAMS = torch.tensor([5.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64) * 100
LOGITS = torch.tensor([0.3, 1.2, -0.4, 2.0, 0.1], dtype=torch.float64)
FLOOR = 50000.0


def price(madds: float | None = None, params: float | None = None) -> Price:
    budgets = [] if madds is None else [Budget(Resource.MADDS, FLOOR + madds, "m")]
    budgets += [] if params is None else [Budget(Resource.PARAMS, FLOOR + params, "p")]
    return Price(budgets, {Resource.MADDS: (FLOOR, COSTS), Resource.PARAMS: (FLOOR, PARAMS)})


def spent(logits: Tensor, costs: Tensor) -> float:
    return float((torch.sigmoid(logits.detach()) * costs).sum())


def test_nothing_changes_where_the_budget_is_wide() -> None:
    enough = spent(LOGITS, COSTS) + 1
    assert torch.equal(price(madds=enough)(LOGITS), LOGITS)
    assert torch.equal(price()(LOGITS.float()), LOGITS.float().double())


def test_it_solves_the_programme_under_the_budget() -> None:
    limit = 7000.0

    def negative(p: np.ndarray) -> float:
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
        return float(-(p @ LOGITS.numpy()) - entropy)

    room = {"type": "ineq", "fun": lambda p: (limit - p @ COSTS.numpy()) / limit}
    solved = minimize(
        negative, np.full(5, 0.2), bounds=[(1e-9, 1 - 1e-9)] * 5, constraints=[room], tol=1e-12, method="SLSQP"
    )
    found = torch.sigmoid(price(madds=limit)(LOGITS))
    np.testing.assert_allclose(found, solved.x, atol=1e-4)
    assert spent(price(madds=limit)(LOGITS), COSTS) == pytest.approx(limit, rel=1e-9)


def test_two_budgets_are_kept_together() -> None:
    for madds, params in ((7000.0, 1e6), (1e6, 200.0), (7000.0, 200.0), (15000.0, 250.0)):
        lowered = price(madds, params)(LOGITS)
        shares = spent(lowered, COSTS) / madds, spent(lowered, PARAMS) / params
        assert max(shares) <= 1.0
        assert max(shares) == pytest.approx(1.0, rel=1e-9)


def test_a_budget_for_no_edge_leaves_none() -> None:
    assert float(torch.sigmoid(price(madds=0.0)(LOGITS)).max()) < 1e-30


def test_gradient_by_differences() -> None:
    lower = price(madds=7000.0)
    weights = torch.tensor([0.2, -1.0, 0.5, 1.5, 0.3], dtype=torch.float64)

    def value(logits: Tensor) -> Tensor:
        return (weights * torch.sigmoid(lower(logits))).sum()

    logits = LOGITS.clone().requires_grad_()
    value(logits).backward()  # type: ignore[no-untyped-call]
    steps = 1e-5 * torch.eye(5, dtype=torch.float64)
    expected = [float((value(LOGITS + step) - value(LOGITS - step)) / 2e-5) for step in steps]
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-5, atol=1e-9)
    # What all edges gain together is taken by the price: the expected cost does not move.
    cost = torch.sigmoid(lower(logits)) @ COSTS
    (gradient,) = torch.autograd.grad(cost, logits)
    assert float(gradient.abs().max()) < 1e-6


def test_entropy_does_not_empty_the_budget() -> None:
    # Without a price all logits that begin below one half end at 0, whatever the budget has room for.
    rng = np.random.default_rng(0)
    costs = torch.from_numpy(rng.choice([1000.0, 9000.0], size=60))
    left = 0.27 * float(costs.sum())
    lower = Price([Budget(Resource.MADDS, left, "m")], {Resource.MADDS: (0.0, costs)})
    logits = torch.from_numpy(rng.normal(scale=0.3, size=60)).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        entropies(lower(logits)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    kept = lower(logits).detach() > 0
    assert float(entropies(lower(logits)).mean().detach()) < 0.05
    assert 0.85 * left < float(costs[kept].sum()) < 1.15 * left

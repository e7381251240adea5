"""The expected cost of AutoMTL against the mean over all networks, and its regularisation by hand."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from bmtas.methods.automtl.losses import ExpectedCost, layer_weights, policy_regularisation
from bmtas.methods.automtl.prices import OWN, SHARED, SKIP, Prices, Wiring
from bmtas.methods.automtl.stages import even_branches, held, policy_temperature, sampled_branches
from costs.units import Resource

if TYPE_CHECKING:
    from tests.methods.automtl.conftest import Small

BOTH = (Resource.MADDS, Resource.PARAMS)


def probabilities(seed: int, tasks: int, convs: int, sharpness: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(tasks, convs, 3, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, dim=-1)


def mean_over(policies: np.ndarray, costs: np.ndarray, p: Tensor) -> Tensor:
    """Return sum over networks of their probability times their cost, differentiable in (T, L, 3)."""
    chosen = torch.gather(p.expand(len(policies), *p.shape), 3, torch.from_numpy(policies)[..., None])
    return chosen.flatten(1).prod(dim=1) @ torch.from_numpy(costs)


@pytest.mark.parametrize("resource", BOTH)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_the_expected_cost_is_the_mean_over_all_networks(small: Small, resource: Resource, sharpness: float) -> None:
    expected = ExpectedCost(small.space.prices(small.table, resource), small.space.wiring, 2)
    for seed in range(5):
        p = probabilities(seed, 2, 4, sharpness).requires_grad_()
        q = p.detach().clone().requires_grad_()
        found, mean = expected(p), mean_over(small.policies, small.costs[resource], q)
        assert float(found.detach()) == pytest.approx(float(mean.detach()), rel=1e-12)
        found.backward()  # type: ignore[no-untyped-call]
        mean.backward()  # type: ignore[no-untyped-call]
        assert p.grad is not None
        assert q.grad is not None
        # On probabilities that sum to 1, gradients are equal but for the same number in a row.
        differences = [g - g.mean(dim=-1, keepdim=True) for g in (p.grad, q.grad)]
        torch.testing.assert_close(*differences, rtol=1e-9, atol=1e-9 * float(differences[1].abs().max()))


def test_certain_policies_cost_what_their_network_costs(small: Small) -> None:
    for resource in BOTH:
        expected = ExpectedCost(small.space.prices(small.table, resource), small.space.wiring, 2)
        for place in range(0, len(small.policies), 331):
            certain = torch.nn.functional.one_hot(torch.from_numpy(small.policies[place]), 3).double()
            assert float(expected(certain)) == pytest.approx(small.costs[resource][place], rel=1e-12)


def test_three_tasks_against_all_their_networks(small: Small) -> None:
    """27 choices a task, of three convolutions; what networks cost is compared with graphs elsewhere."""
    policies = np.array(list(itertools.product(range(3), repeat=9))).reshape(-1, 3, 3)
    whole = np.concatenate([policies, np.zeros((len(policies), 3, 1), dtype=np.int64)], axis=2)
    for resource in BOTH:
        prices = small.space.prices(small.table, resource)
        costs = prices.of(whole, small.space.wiring)
        p = probabilities(7, 3, 4, 1.0)
        p[:, 3] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        mean = float(mean_over(whole, costs, p))
        assert float(ExpectedCost(prices, small.space.wiring, 3)(p)) == pytest.approx(mean, rel=1e-12)


def test_eight_tasks_in_a_chain_by_hand() -> None:
    """One convolution after another, each of price 1: E[runs of the second] is a sum over how many share the first."""
    none, one = np.zeros(2), np.ones(2)
    above = np.array([[False, False], [True, False]])
    wiring = Wiring(np.array([False, False]), np.zeros(2, dtype=bool), above, np.zeros((0, 2), dtype=bool), ())
    prices = Prices(none, one, one, none, np.zeros(0), 0.0)
    p, q = 0.7, 0.4  # of the shared one, in the first and in the second; else an own one
    rows = torch.tensor([[p, 1 - p, 0.0], [q, 1 - q, 0.0]], dtype=torch.float64).expand(8, 2, 3)
    first = 1 - (1 - p) ** 8 + 8 * (1 - p)
    # Those who shared the first compute the second once if any of them shares it; all others once each in any case.
    second = sum(
        math.comb(8, k) * p**k * (1 - p) ** (8 - k) * ((1 - (1 - q) ** k) + k * (1 - q) + (8 - k)) for k in range(9)
    )
    assert float(ExpectedCost(prices, wiring, 8)(rows)) == pytest.approx(first + second, rel=1e-12)


def test_the_weights_of_layers() -> None:
    assert layer_weights([1, 2, 3, 2, 4]).tolist() == [0.75, 0.5, 0.25, 0.5, 0.0]


def test_the_regularisation_by_hand() -> None:
    samples = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]])
    expected = 0.75 * (math.log1p(math.exp(6 * -0.3)) + math.log1p(math.exp(6 * -0.2)))
    expected += 0.25 * (math.log1p(math.exp(6 * 0.7)) + math.log1p(math.exp(0.0)))
    found = policy_regularisation(samples, torch.tensor([0.75, 0.25]), 6.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # It adds up over tasks.
    twice = policy_regularisation(samples.expand(2, 2, 3), torch.tensor([0.75, 0.25]), 6.0)
    assert float(twice) == pytest.approx(2 * expected, rel=1e-5)


def test_the_regularisation_draws_to_the_shared_branch_near_the_image_most() -> None:
    logits = torch.zeros(2, 4, 3, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for _ in range(200):
        samples = sampled_branches(logits, torch.zeros(4, dtype=torch.bool), 5.0, generator)
        total = total + policy_regularisation(samples, layer_weights([1, 2, 3, 4]), 6.0)
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    down = -logits.grad.mean(dim=0)  # where a step goes
    assert (down[:3, SHARED] > 0).all()
    assert (down[:3, [OWN, SKIP]] < 0).all()
    assert down[0, SHARED] > down[1, SHARED] > down[2, SHARED] > 0
    assert float(logits.grad[:, 3].abs().max()) == 0.0


def test_temperatures_and_branches_of_the_stages() -> None:
    assert policy_temperature(5.0, 0.965, 40, 0.0) == 5.0
    # After 4000 policy steps of the published search, 40 times less by 3.5 %.
    assert policy_temperature(5.0, 0.965, 40, 1.0) == pytest.approx(1.2024, abs=5e-5)
    assert policy_temperature(5.0, 0.965, 40, 0.025) == pytest.approx(5.0 * 0.965)
    assert torch.equal(even_branches(2, 3), torch.full((2, 3, 3), 1 / 3))
    forced = torch.tensor([True, False])
    rows = held(torch.full((2, 2, 3), 1 / 3), forced)
    assert rows[:, 0].tolist() == [[1.0, 0.0, 0.0]] * 2
    assert torch.equal(rows[:, 1], torch.full((2, 3), 1 / 3))

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from costs import CostError, CostTable, Resource, expected_cost, expected_groups, sharing_probabilities

Floats = npt.NDArray[np.float64]
MakeTable = Callable[..., CostTable]
ALMOST = 1e12
"""A sharpness at which rows are exactly one-hot in float64."""


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0, 40.0, ALMOST])
@pytest.mark.parametrize(("tasks", "layers", "candidates"), [(1, 2, 1), (2, 3, 2), (3, 3, 3), (3, 2, 5), (4, 2, 4)])
def test_groups_agree_with_enumeration_of_all_draws(
    draw_probs: Callable[..., Floats],
    enumerate_draws: Callable[..., object],
    tasks: int,
    layers: int,
    candidates: int,
    sharpness: float,
) -> None:
    probs = draw_probs(np.random.default_rng(7), layers, tasks, sharpness, candidates)
    expected = enumerate_draws(probs).expected_groups()  # type: ignore[attr-defined]
    np.testing.assert_allclose(expected_groups(torch.from_numpy(probs)).numpy(), expected, rtol=1e-12)


def test_cost_agrees_with_enumeration_of_all_draws(
    draw_probs: Callable[..., Floats], enumerate_draws: Callable[..., object], make_table: MakeTable
) -> None:
    probs = draw_probs(np.random.default_rng(1), 3, 4, 2.0)
    table = make_table(4, madds=[3e8, 5e7, 9e8], params=[10, 20, 30])
    groups = enumerate_draws(probs).expected_groups()  # type: ignore[attr-defined]  # 16.8 million draws
    fixed = 7 + 10 + 11 + 12 + 13
    for resource, costs in ((Resource.MADDS, [3e8, 5e7, 9e8]), (Resource.PARAMS, [10, 20, 30])):
        found = expected_cost(torch.from_numpy(probs), table, resource).item()
        assert found == pytest.approx(fixed + groups @ np.array(costs), rel=1e-12)


def test_the_figure_of_the_design() -> None:
    # Five tasks, 18 layers, every task puts 0.98 on the same candidate: 33.2 groups over all layers.
    probs = torch.full((18, 5, 5), 0.02 / 4, dtype=torch.float64)
    probs[:, :, 0] = 0.98
    assert expected_groups(probs).sum().item() == pytest.approx(33.2, abs=0.1)


def test_sharing_probabilities_by_hand() -> None:
    probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.6, 0.4]]], dtype=torch.float64)
    together = 0.5 * 0.25 + 0.5 * 0.75
    expected = torch.tensor([[1, 1, 1, together], [1, 1, 1, together * 0.6]], dtype=torch.float64)
    torch.testing.assert_close(sharing_probabilities(probs), expected, rtol=1e-15, atol=0.0)


def test_single_tasks_are_exactly_one_even_if_rows_are_not() -> None:
    probs = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert (probs.to(torch.float64).sum(-1) != 1).any()  # float32 rows sum to 1 up to 1e-7
    sharing = sharing_probabilities(probs)
    assert sharing.dtype is torch.float64
    assert (sharing[:, [0, 1, 2, 4]] == 1).all()


def test_gradients_agree_with_finite_differences(make_table: MakeTable) -> None:
    table = make_table(4, madds=[3.0, 5.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)

    def cost(alpha: torch.Tensor) -> torch.Tensor:
        return expected_cost(alpha.softmax(-1), table, Resource.MADDS)

    assert torch.autograd.gradcheck(cost, (logits,))


def test_gradients_at_one_hot_rows_are_finite_and_right() -> None:
    probs = torch.zeros(3, 4, 4, dtype=torch.float64)
    probs[:, :2, 0] = probs[:, 2:, 1] = 1.0
    probs[1, 1] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    probs.requires_grad_()
    (gradient,) = torch.autograd.grad(expected_groups(probs).sum(), probs)
    assert gradient.isfinite().all()
    for place in np.ndindex(3, 4, 4):
        moved, step = probs.detach().clone(), 2.0**-17
        moved[place] += step  # groups are a straight line in each entry, so a difference quotient is exact
        rise = (expected_groups(moved).sum() - expected_groups(probs.detach()).sum()).item()
        assert gradient[place].item() == pytest.approx(rise / step, abs=1e-7)


def test_float32_goes_through_float64_and_back(make_table: MakeTable) -> None:
    table = make_table(3, madds=[1e9 + 1, 1e9 + 3])
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    cost = expected_cost(logits.softmax(-1), table, Resource.MADDS)
    cost.backward()
    assert cost.dtype is torch.float64
    assert cost.ndim == 0
    assert logits.grad is not None
    assert logits.grad.dtype is torch.float32
    assert logits.grad.abs().sum() > 0


def test_the_cost_of_float32_probabilities_has_the_digits_of_float64(make_table: MakeTable) -> None:
    # Two of the eight draws of three tasks agree, the others form two groups: 1.75 on average. 1e9 + 1 is no float32.
    table = make_table(3, madds=[1e9 + 1])
    cost = expected_cost(torch.full((1, 3, 2), 0.5), table, Resource.MADDS)
    assert cost.item() == 1.75 * (1e9 + 1) + 7 + 10 + 11 + 12


def test_a_first_call_in_inference_mode_does_not_spoil_later_gradients() -> None:
    # What is remembered from the first call depends on T alone, so no other test may have asked for this T.
    probs = torch.full((1, 13, 3), 1 / 3, dtype=torch.float64)
    with torch.inference_mode():
        expected_groups(probs)
    expected_groups(probs.requires_grad_()).sum().backward()
    assert probs.grad is not None


def test_one_hot_rows_give_the_cost_of_the_network_itself(make_table: MakeTable) -> None:
    table = make_table(3, madds=[5, 6, 7])
    draws = torch.tensor([[0, 0, 0], [1, 1, 2], [0, 0, 0]])
    probs = torch.nn.functional.one_hot(draws, 3).to(torch.float64)
    fixed = 7 + 10 + 11 + 12
    assert expected_cost(probs, table, Resource.MADDS).item() == 1 * 5 + 2 * 6 + 2 * 7 + fixed


@pytest.mark.parametrize(
    ("probs", "words"),
    [
        (torch.full((2, 3, 3), 0.3), ["differs from a distribution", "0.1", "softmax"]),
        (torch.tensor([[[1.5, -0.5]] * 3] * 2), ["differs from a distribution", "by 0.5"]),
        (torch.full((2, 3, 3), math.nan), ["by nan"]),
        (torch.full((2, 4, 3), 1 / 3), ["(2, 4, 3)", "(layers, tasks, candidates) = (2, 3, C)"]),
        (torch.full((2, 3), 1 / 3), ["(2, 3)"]),
        (torch.ones((2, 3, 1), dtype=torch.int64), ["int64", "floating point"]),
        (torch.ones((2, 3, 0)), ["(2, 3, 0)"]),
    ],
)
def test_what_is_no_distribution_is_refused(make_table: MakeTable, probs: torch.Tensor, words: list[str]) -> None:
    with pytest.raises(CostError) as caught:
        expected_cost(probs, make_table(3, madds=[1, 2]), Resource.MADDS)
    for word in words:
        assert word in str(caught.value)


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.floats(0, 50))
def test_the_cost_lies_between_all_shared_and_all_split_whatever_the_order_of_tasks(
    seed: int, tasks: int, layers: int, sharpness: float
) -> None:
    rng = np.random.default_rng(seed)
    probs = torch.from_numpy(sharpness * rng.normal(size=(layers, tasks, tasks))).softmax(-1)
    groups = expected_groups(probs)
    assert (groups >= 1 - 1e-12).all()
    assert (groups <= tasks + 1e-12).all()
    assert (groups.diff() >= -1e-12).all()  # tasks part, they never meet again
    shuffled = expected_groups(probs[:, torch.from_numpy(rng.permutation(tasks))])
    torch.testing.assert_close(shuffled, groups, rtol=1e-12, atol=0.0)

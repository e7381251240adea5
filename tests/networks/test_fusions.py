"""The weighted sum of tensors, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bmtas.networks.fusions import WeightedSum, weighted_sum


@pytest.mark.parametrize("inputs", [1, 2, 5])
def test_weighted_sum_against_numpy(inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    values = torch.randn(inputs, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    weights = torch.randn(inputs, dtype=torch.float64, generator=generator).requires_grad_()
    found = weighted_sum(values, weights)
    expected = np.einsum("i,inchw->nchw", weights.detach().numpy(), values.numpy())
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), weights)
    np.testing.assert_allclose(gradient, np.sum(values.numpy(), axis=(1, 2, 3, 4)), rtol=1e-9)


@pytest.mark.parametrize("weights", [1, 3])
def test_another_number_of_weights_is_refused(weights: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted_sum([torch.ones(2)] * 2, torch.ones(weights))


def test_a_value_with_the_number_one_is_taken_as_it_is() -> None:
    value, other = torch.ones(2), torch.full((2,), 3.0)
    assert weighted_sum([value], [1.0]) is value
    assert weighted_sum([value, other], [1.0, 0.5]).tolist() == [2.5, 2.5]


def test_a_weighted_sum_begins_as_the_mean() -> None:
    values = torch.randn(4, 1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(WeightedSum(4).double()(*values).detach(), values.numpy().mean(axis=0), rtol=1e-9)

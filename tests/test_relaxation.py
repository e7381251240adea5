"""The continuous relaxation: what the softened samples are samples of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from bmtas.relaxation import annealed, gumbel_softmax

LOGITS = torch.tensor([[1.0, 0.0, -1.5, 0.3], [0.0, 0.0, 0.0, 4.0]])


def draw(temperature: float, count: int = 20_000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return gumbel_softmax(LOGITS.expand(count, 2, 4), temperature, generator)


def test_cold_samples_are_samples_of_the_categorical_distribution() -> None:
    count = 20_000
    largest = draw(0.05, count).argmax(dim=-1).numpy()
    for row in range(2):
        expected = softmax(LOGITS[row].numpy().astype(np.float64))
        found = np.bincount(largest[:, row], minlength=4) / count
        error = np.sqrt(expected * (1 - expected) / count)
        assert (np.abs(found - expected) < 4 * error).all()


def test_cold_samples_are_nearly_one_hot_and_hot_ones_nearly_uniform() -> None:
    assert (draw(0.01).amax(dim=-1) > 0.99).double().mean() > 0.9
    assert (draw(1e4) - 0.25).abs().max() < 0.01


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0, 5.0])
def test_rows_are_distributions(temperature: float) -> None:
    sample = draw(temperature)
    assert sample.shape == (20_000, 2, 4)
    assert (sample >= 0).all()
    torch.testing.assert_close(sample.sum(dim=-1), torch.ones(20_000, 2))


def test_samples_are_those_of_the_formula() -> None:
    # Paper, Eq. 2, with noise of our own: softmax((logits + G) / temperature), G = -log E, E exponential
    noise = -torch.empty(1000, 2, 4).exponential_(generator=torch.Generator().manual_seed(3)).log()
    expected = softmax((LOGITS + noise).double().numpy() / 0.7, axis=-1)
    np.testing.assert_allclose(draw(0.7, 1000, seed=3).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_generator_decides_the_noise() -> None:
    assert torch.equal(draw(1.0, 10, seed=1), draw(1.0, 10, seed=1))
    assert not torch.equal(draw(1.0, 10, seed=1), draw(1.0, 10, seed=2))
    state = torch.get_rng_state()
    draw(1.0, 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_and_samples_are_drawn_independently() -> None:
    sample = draw(0.05)
    a, b = (sample[:, 0].argmax(dim=-1) == 0).double(), (sample[:, 1].argmax(dim=-1) == 3).double()
    assert abs(float(((a - a.mean()) * (b - b.mean())).mean())) < 4 * 0.5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("temperature", [0.05, 0.1, 5.0])
def test_gradients_are_finite_and_sum_to_zero_over_a_row(temperature: float) -> None:
    logits = LOGITS.clone().requires_grad_(True)
    sample = gumbel_softmax(logits.expand(500, 2, 4), temperature, torch.Generator().manual_seed(0))
    (sample * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0
    # a constant added to a row changes nothing
    assert logits.grad.sum(dim=-1).abs().max() < 1e-2 * logits.grad.abs().max()


def test_annealing_is_linear_and_stays_within_its_ends() -> None:
    assert annealed(5.0, 0.1, 0.0) == 5.0
    assert annealed(5.0, 0.1, 0.5) == pytest.approx(2.55)
    assert annealed(5.0, 0.1, 1.0) == pytest.approx(0.1)
    assert annealed(5.0, 0.1, 1.7) == pytest.approx(0.1)
    assert annealed(5.0, 0.1, -1.0) == 5.0

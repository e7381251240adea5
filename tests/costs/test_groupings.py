from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from costs import CostError, grouping_probabilities
from costs.partitions import partitions_of, tasks_of

Floats = npt.NDArray[np.float64]
Draw = Callable[..., Floats]
ALMOST = 1e12
"""A sharpness at which rows are exactly one-hot in float64."""


def groupings(tasks: int) -> list[tuple[tuple[int, ...], ...]]:
    return [tuple(tasks_of(block) for block in partition) for partition in partitions_of(2**tasks - 1)]


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0, 40.0, ALMOST])
@pytest.mark.parametrize(("tasks", "layers", "candidates"), [(1, 2, 1), (2, 4, 2), (3, 4, 3), (3, 2, 5), (4, 2, 4)])
def test_they_agree_with_enumeration_of_all_draws(
    draw_probs: Draw, enumerate_draws: Callable[..., Any], tasks: int, layers: int, candidates: int, sharpness: float
) -> None:
    probs = draw_probs(np.random.default_rng(3), layers, tasks, sharpness, candidates)
    drawn = enumerate_draws(probs)
    expected = np.zeros((layers, len(groupings(tasks))))
    for layer, numbers in enumerate(drawn.groupings):
        for number, grouping in drawn.partitions.items():
            expected[layer, groupings(tasks).index(grouping)] = drawn.weights[numbers == number].sum()
    np.testing.assert_allclose(grouping_probabilities(probs), expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("tasks", [5, 8, 9])
@pytest.mark.parametrize("agreement", [None, 0.98, 1 - 1e-9, 1.0])
def test_rows_sum_to_one_and_nothing_is_negative(draw_probs: Draw, tasks: int, agreement: float | None) -> None:
    if agreement is None:
        probs = draw_probs(np.random.default_rng(tasks), 18, tasks, 2.0)
    else:
        probs = np.full((18, tasks, tasks), (1 - agreement) / (tasks - 1))
        probs[:, :, 0] = agreement
    found = grouping_probabilities(probs)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    assert found.min() >= -1e-12


@pytest.mark.slow
def test_ten_tasks(draw_probs: Draw) -> None:
    found = grouping_probabilities(draw_probs(np.random.default_rng(0), 18, 10, 12.0))
    assert found.shape == (18, 115_975)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    assert found.min() >= -1e-12


def test_tiny_probabilities_keep_their_digits() -> None:
    tiny = 1e-12
    probs = np.zeros((1, 8, 8))
    for t in range(8):
        probs[0, t, 0] = 1.0 if t == 0 else 1 - tiny
        probs[0, t, t] += 0.0 if t == 0 else tiny
    found = grouping_probabilities(probs)[0]
    assert found[-1] == pytest.approx(tiny**7, rel=1e-9)  # all seven others leave, each to a candidate of its own


def test_rows_of_float32_are_scaled_to_one() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    rows = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    assert np.abs(grouping_probabilities(rows).sum(axis=1) - 1).max() < 1e-12


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(CostError, match=r"11 tasks: .* up to 10"):
        grouping_probabilities(np.full((1, 11, 2), 0.5))
    with pytest.raises(CostError, match="differs from a distribution"):
        grouping_probabilities(np.full((1, 2, 3), 0.5))

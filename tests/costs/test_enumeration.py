"""Expected costs and groupings of four tasks in four layers, held to all draws of every layer in exact arithmetic.

Also where nearly all draws are nearly certain. Sums that cancel, divisions and logarithms would show there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from costs import (
    CostTable,
    Resource,
    expected_cost,
    expected_from_groupings,
    expected_groups,
    expected_layer_costs,
    grouping_probabilities,
)

Floats = npt.NDArray[np.float64]
Draw = Callable[..., Floats]
MakeTable = Callable[..., CostTable]
Grouping = tuple[tuple[int, ...], ...]
MADDS, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB
PRIMES = [2.0, 3.0, 5.0, 7.0]
"""MAdds of one group in the layers of `make_general_table`."""

CERTAINTIES = ["spread", "sharp", "1e-3", "1e-9", "1e-15", "one-hot", "mixed"]


def rows(rng: np.random.Generator, certainty: str, shape: tuple[int, int, int], *, agree: bool) -> Floats:
    """Probabilities of that shape (L, T, C); with `agree` all tasks favour the same candidate in all layers but one."""
    layers, tasks, candidates = shape
    if certainty in ("spread", "sharp"):
        logits = (1.0 if certainty == "spread" else 8.0) * rng.normal(size=shape)
        exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
        return exponentials / exponentials.sum(axis=2, keepdims=True)
    doubts = {"one-hot": [0.0], "mixed": [0.0, 1e-15, 1e-9, 1e-3, 0.5]}.get(certainty) or [float(certainty)]
    favourites = rng.integers(0, candidates, size=(layers, 1 if agree else tasks)) + np.zeros((1, tasks), dtype=int)
    if agree:
        favourites[layers // 2] = np.arange(tasks) % 2
    probs = np.zeros(shape)
    for layer, t in np.ndindex(layers, tasks):
        doubt = float(rng.choice(doubts))
        shares = rng.dirichlet(np.ones(candidates - 1))
        probs[layer, t] = np.insert(doubt * shares, favourites[layer, t], 1.0 - doubt)
    return probs


@pytest.mark.parametrize("agree", [True, False])
@pytest.mark.parametrize("certainty", CERTAINTIES)
def test_four_tasks_four_layers_and_four_candidates(
    make_general_table: MakeTable,
    enumerate_exactly: Callable[..., Any],
    list_groupings: Callable[[int], list[Grouping]],
    certainty: str,
    agree: bool,
) -> None:
    rng = np.random.default_rng(12)
    listed = list_groupings(4)
    counts, parts = rng.uniform(1.0, 9.0, size=(4, 4)), rng.uniform(1.0, 9.0, size=(4, 15))  # in no order
    counts[0] = 3.0 * np.arange(1, 5) + 1e-9 * counts[0]  # all but proportional, which it must not be taken for
    table = make_general_table(4, latency=counts, memory=parts)
    probs = rows(rng, certainty, (4, 4, 4), agree=agree)
    drawn = enumerate_exactly(probs)

    stated: dict[Resource, Callable[[int, Grouping], float]] = {
        MADDS: lambda layer, k: PRIMES[layer] * len(k),
        MS: lambda layer, k: counts[layer, len(k) - 1],
        MIB: lambda layer, k: parts[layer, listed.index(k)],
    }
    for resource, cost in stated.items():
        expected = drawn.expected(cost)
        found = expected_layer_costs(torch.from_numpy(probs), table, resource)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=0)
        np.testing.assert_allclose(expected_from_groupings(probs, table, resource), expected, rtol=1e-12, atol=0)
        if not resource.is_peak:
            total = expected_cost(torch.from_numpy(probs), table, resource).item()
            assert total == pytest.approx(0.5 + expected.sum(), rel=1e-12)
    groups = drawn.expected(lambda _, k: len(k))
    np.testing.assert_allclose(expected_groups(torch.from_numpy(probs)).numpy(), groups, rtol=1e-12, atol=0)

    probabilities = grouping_probabilities(probs)
    exact = np.array([[float(layer.get(k, 0)) for k in listed] for layer in drawn.probabilities])
    np.testing.assert_allclose(probabilities, exact, rtol=1e-12, atol=0)  # more than 1e-12 absolute: all digits
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-12
    assert probabilities.min() >= 0


@pytest.mark.parametrize("certainty", ["spread", "1e-9", "1e-15", "one-hot", "mixed"])
def test_gradients_are_the_differences_between_certain_draws(
    make_general_table: MakeTable,
    enumerate_exactly: Callable[..., Any],
    list_groupings: Callable[[int], list[Grouping]],
    certainty: str,
) -> None:
    # The cost is a straight line in the row of one task in one layer. So what moving probability from one candidate to
    # another changes is the difference of the costs in which that task is certain to take the one or the other.
    rng = np.random.default_rng(5)
    listed = list_groupings(3)
    counts, parts = rng.uniform(1.0, 9.0, size=(3, 3)), rng.uniform(1.0, 9.0, size=(3, 5))
    table = make_general_table(3, latency=counts, memory=parts)
    stated: dict[Resource, Callable[[int, Grouping], float]] = {
        MADDS: lambda layer, k: PRIMES[layer] * len(k),
        MS: lambda layer, k: counts[layer, len(k) - 1],
        MIB: lambda layer, k: parts[layer, listed.index(k)],
    }
    probs = rows(rng, certainty, (3, 3, 3), agree=True)
    costs = {resource: np.empty(probs.shape) for resource in stated}
    for place in np.ndindex(probs.shape):
        certain = probs.copy()
        certain[place[:2]] = np.eye(3)[place[2]]
        drawn = enumerate_exactly(certain)
        for resource, cost in stated.items():
            costs[resource][place] = drawn.expected(cost).sum()
    for resource, known in costs.items():
        tensor = torch.from_numpy(probs).requires_grad_()
        (gradient,) = torch.autograd.grad(expected_layer_costs(tensor, table, resource).sum(), tensor)
        found = gradient.numpy() - gradient.numpy()[:, :, :1]
        np.testing.assert_allclose(found, known - known[:, :, :1], rtol=1e-11, atol=1e-12)


def test_the_exact_enumeration_agrees_with_that_of_all_draws_of_all_layers(
    draw_probs: Draw, enumerate_draws: Callable[..., Any], enumerate_exactly: Callable[..., Any]
) -> None:
    # The one goes from layer to layer, the other lists all 19,683 combinations of the draws of three layers.
    probs = draw_probs(np.random.default_rng(2), 3, 3, 1.5)
    one, other = enumerate_exactly(probs), enumerate_draws(probs)
    for layer, numbers in enumerate(other.groupings):
        assert sum(one.probabilities[layer].values()) == 1
        for number, grouping in other.partitions.items():
            weight = other.weights[numbers == number].sum()
            assert float(one.probabilities[layer][grouping]) == pytest.approx(weight, rel=1e-12)

"""The estimator as published, for comparison: held to the paper's Eq. 6 by hand and to what it over-counts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from costs import CostError, CostTable, Resource, expected_layer_costs
from costs.published import drawn_groupings, published_layer_costs

M, MS = Resource.MADDS, Resource.LATENCY_MS
MakeTable = Callable[..., CostTable]


def test_two_tasks_by_hand(make_table: MakeTable) -> None:
    # Together with 0.6 in layer 1 and 0.5 in layer 2; Eq. 6 for k = together: 0.6, then 0.5 * 0.6.
    probs = torch.tensor([[[0.5, 0.5], [0.6, 0.4]], [[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
    first, second = 0.5 * 0.6 + 0.5 * 0.4, 0.5 * 0.9 + 0.5 * 0.1
    table = make_table(2, madds=[10, 100])
    charged = published_layer_costs(probs, table, M)
    # With two tasks apart is the finest grouping there is, so nothing is over-counted.
    expected = [10 * (2 - first), 100 * (2 - first * second)]
    assert charged.tolist() == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(charged, expected_layer_costs(probs, table, M), rtol=1e-13, atol=0)


def test_the_counter_example_of_crossing_draws(make_table: MakeTable) -> None:
    # Certain draws {AB|CD} in every second layer: built are 1, 2, 2, 2 groups, charged 1, 2, 4, 4.
    together, apart = [0, 0, 0, 0], [0, 0, 1, 1]
    probs = torch.nn.functional.one_hot(torch.tensor([together, apart, together, apart]), 4).double()
    table = make_table(4, madds=[1, 1, 1, 1])
    assert published_layer_costs(probs, table, M).tolist() == [1, 2, 4, 4]
    assert expected_layer_costs(probs, table, M).tolist() == [1, 2, 2, 2]


def test_it_never_charges_less_than_the_exact_cost(make_general_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    for sharpness in (0.1, 1.0, 4.0, 50.0):
        table = make_general_table(4, latency=np.cumsum(rng.uniform(1, 5, (5, 4)), axis=1))
        probs = torch.from_numpy(sharpness * rng.normal(size=(5, 4, 4))).softmax(-1)
        for resource in (M, MS):
            charged, exact = (f(probs, table, resource) for f in (published_layer_costs, expected_layer_costs))
            assert (charged >= exact * (1 - 1e-12)).all()
            assert charged[0] == pytest.approx(exact[0].item(), rel=1e-12)  # nothing comes before the first layer


def test_draws_of_two_candidates_by_three_tasks() -> None:
    probs = torch.tensor([[[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
    all_same = 0.2 * 0.5 * 0.9 + 0.8 * 0.5 * 0.1
    ab, ac, bc = (
        0.2 * 0.5 * 0.1 + 0.8 * 0.5 * 0.9,
        0.2 * 0.5 * 0.9 + 0.8 * 0.5 * 0.1,
        0.8 * 0.5 * 0.9 + 0.2 * 0.5 * 0.1,
    )
    # Canonical order: all together, then ab|c, ac|b, a|bc, all apart, which two candidates cannot draw.
    assert drawn_groupings(probs)[0].tolist() == pytest.approx([all_same, ab, ac, bc, 0], abs=1e-15)


def test_what_it_cannot_do_is_refused(make_table: MakeTable, make_general_table: MakeTable) -> None:
    with pytest.raises(CostError, match="at most 6 tasks"):
        published_layer_costs(torch.full((1, 7, 2), 0.5), make_table(7, madds=[1]), M)
    table = make_general_table(3, latency=np.ones((1, 5)))
    with pytest.raises(CostError, match="depends on the partition"):
        published_layer_costs(torch.full((1, 3, 3), 1 / 3), table, MS)

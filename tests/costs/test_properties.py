"""What holds for every table and every distribution: refining costs more, merging candidates less, order nothing."""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from costs import (
    CostTable,
    Resource,
    expected_cost,
    expected_layer_costs,
    grouping_probabilities,
    partition_costs,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Grouping = tuple[tuple[int, ...], ...]
SplitBy = Callable[[Grouping, list[int]], Grouping]
ListGroupings = Callable[[int], list[Grouping]]
MakeTable = Callable[..., CostTable]
MADDS, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB

seeds = st.integers(0, 2**32 - 1)


def labels(grouping: Grouping) -> list[int]:
    """Return the number of each task's group."""
    return [number for _, number in sorted((t, number) for number, group in enumerate(grouping) for t in group)]


@pytest.fixture(scope="session")
def coarser(list_groupings: ListGroupings, split_by: SplitBy) -> Callable[[int], Ints]:
    """Return a function of T: at [k, m] 1 if grouping m is coarser than k or equal, so that m parts no group of k."""

    @cache
    def order(tasks: int) -> Ints:
        listed = list_groupings(tasks)
        return np.array([[split_by(fine, labels(coarse)) == fine for coarse in listed] for fine in listed], dtype=int)

    return order


@pytest.fixture(scope="session")
def make_rising_table(make_general_table: MakeTable, coarser: Callable[[int], Ints]) -> MakeTable:
    """Return a builder of tables in which every cost rises with finer groupings, by whole numbers.

    MAdds are proportional to the number of groups. Of latency and memory the one is any rising function of it. The
    other sums positive numbers, one for each grouping that is coarser or equal: a finer grouping has more of those.
    """

    def make(rng: np.random.Generator, tasks: int, layers: int, *, swapped: bool) -> CostTable:
        counts = rng.integers(1, 50, size=(layers, tasks)).cumsum(axis=1).astype(float)
        parts = (rng.integers(1, 50, size=(layers, len(coarser(tasks)))) @ coarser(tasks).T).astype(float)
        latency, memory = (parts, counts) if swapped else (counts, parts)
        return make_general_table(tasks, latency, memory, madds=rng.integers(1, 50, size=layers).tolist())

    return make


def cuts(tasks: int) -> st.SearchStrategy[list[list[list[int]]]]:
    """Draw for some layers what parts the tasks of the coarser and, beyond that, of the finer architecture."""
    none = st.just([0] * tasks)
    cut = none | st.lists(st.integers(0, 2), min_size=tasks, max_size=tasks)
    return st.lists(st.lists(cut, min_size=2, max_size=2), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, database=None)
@given(drawn=st.integers(1, 5).flatmap(cuts), seed=seeds, swapped=st.booleans())
def test_a_finer_architecture_never_costs_less(
    make_rising_table: MakeTable, split_by: SplitBy, drawn: list[list[list[int]]], seed: int, swapped: bool
) -> None:
    tasks = len(drawn[0][0])
    coarse: list[Grouping] = []
    fine: list[Grouping] = []
    before = after = (tuple(range(tasks)),)
    for cut, further in drawn:
        before = split_by(before, cut)
        after = split_by(split_by(after, labels(before)), further)  # refines the layer before, and the coarser one
        coarse.append(before)
        fine.append(after)
    table = make_rising_table(np.random.default_rng(seed), tasks, len(drawn), swapped=swapped)
    for resource in (MADDS, MS, MIB):
        less, more = (table.architecture_cost(groupings, resource) for groupings in (coarse, fine))
        assert more >= less
        assert more > less or resource.is_peak or fine == coarse  # these costs rise, so a sum misses no refinement
        certain = [torch.eye(tasks)[torch.tensor([labels(k) for k in groupings])] for groupings in (coarse, fine)]
        one, other = (expected_layer_costs(probs, table, resource) for probs in certain)
        assert (other - one >= -1e-9).all()
        parted = torch.tensor([a != b for a, b in zip(coarse, fine, strict=True)])
        assert torch.equal(other - one > 0.5, parted)


@settings(max_examples=100, deadline=None, database=None)
@given(
    seed=seeds,
    tasks=st.integers(1, 5),
    layers=st.integers(1, 5),
    candidates=st.integers(2, 5),
    sharpness=st.floats(0, 30),
    swapped=st.booleans(),
)
def test_merging_two_candidates_never_raises_the_cost(
    make_rising_table: MakeTable,
    seed: int,
    tasks: int,
    layers: int,
    candidates: int,
    sharpness: float,
    swapped: bool,
) -> None:
    rng = np.random.default_rng(seed)
    table = make_rising_table(rng, tasks, layers, swapped=swapped)
    probs = torch.from_numpy(sharpness * rng.normal(size=(layers, tasks, candidates))).softmax(-1)
    pairs = [rng.permutation(candidates)[:2].tolist() for _ in range(layers)]
    merged = probs.clone()
    for layer, (one, other) in enumerate(pairs):
        merged[layer, :, one] += merged[layer, :, other]
        merged[layer, :, other] = 0.0
    once = probs.clone()  # in a single layer
    once[layers // 2] = merged[layers // 2]
    fewer = torch.stack([merged[i][:, [j for j in range(candidates) if j != pairs[i][1]]] for i in range(layers)])
    for resource in (MADDS, MS):
        most = expected_cost(probs, table, resource).item()
        between = expected_cost(once, table, resource).item()
        least = expected_cost(fewer, table, resource).item()
        assert table.shared_total(resource) * (1 - 1e-12) <= least
        assert least <= between * (1 + 1e-12)
        assert between <= most * (1 + 1e-12)
        assert most <= table.split_total(resource) * (1 + 1e-12)


@settings(max_examples=100, deadline=None, database=None)
@given(
    order=st.integers(3, 5).flatmap(lambda tasks: st.permutations(range(tasks))),
    seed=seeds,
    layers=st.integers(1, 4),
    sharpness=st.floats(0, 30),
)
def test_permuting_tasks_permutes_results(
    make_general_table: MakeTable,
    list_groupings: ListGroupings,
    order: list[int],
    seed: int,
    layers: int,
    sharpness: float,
) -> None:
    rng = np.random.default_rng(seed)
    tasks = len(order)
    listed = list_groupings(tasks)
    costs = rng.uniform(1.0, 9.0, size=(layers, len(listed)))
    logits = sharpness * rng.normal(size=(layers, tasks, tasks))
    probs = torch.from_numpy(logits).softmax(-1)
    # Task t of the permuted problem is task order[t] of the first, so its grouping k is the first's grouping origin[k].
    origin = [listed.index(tuple(sorted(tuple(sorted(order[t] for t in group)) for group in k))) for k in listed]
    table = make_general_table(tasks, costs)
    permuted = make_general_table(tasks, costs[:, origin])
    found = expected_layer_costs(probs[:, order], permuted, MS)
    torch.testing.assert_close(found, expected_layer_costs(probs, table, MS), rtol=1e-11, atol=0.0)
    np.testing.assert_allclose(
        grouping_probabilities(probs[:, order]), grouping_probabilities(probs)[:, origin], rtol=1e-11, atol=0
    )
    # The table says by names what it says, so the same tasks in another order are the permuted table.
    by_name = table.subset([f"t{t}" for t in order])
    np.testing.assert_array_equal(partition_costs(by_name, MS), costs[:, origin])

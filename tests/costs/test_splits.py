import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from costs.partitions import bell, moebius, partitions_of, refines, tasks_of
from costs.splits import split_probabilities, splits_for

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_all_splits_of_all_sets_are_there(tasks: int) -> None:
    splits = splits_for(np.ones((1, tasks, 1)))
    assert splits.complete
    assert len(splits.sets) == bell(tasks + 1) - 1
    for mask in range(1, 2**tasks):
        part = splits.of(mask)
        assert tuple(splits.partition(s) for s in range(part.start, part.stop)) == partitions_of(mask)


@pytest.mark.parametrize(("tasks", "candidates"), [(1, 3), (3, 2), (4, 4), (5, 3)])
def test_probabilities_agree_with_moebius_inversion(
    draw_probs: Callable[..., Floats], tasks: int, candidates: int
) -> None:
    probs = draw_probs(np.random.default_rng(tasks), 2, tasks, 1.5, candidates)
    splits = splits_for(probs)
    found = split_probabilities(probs, splits)
    for layer, split in itertools.product(range(2), range(len(splits.sets))):
        fine = splits.partition(split)
        expected = 0.0
        for coarse in partitions_of(int(splits.sets[split])):
            if refines(fine, coarse):
                together = [np.prod([probs[layer, t] for t in tasks_of(block)], axis=0).sum() for block in coarse]
                expected += moebius(fine, coarse) * np.prod(together)
        assert found[layer, split] == pytest.approx(expected, abs=1e-14)


def test_the_splits_of_a_set_sum_to_one(draw_probs: Callable[..., Floats]) -> None:
    probs = draw_probs(np.random.default_rng(0), 3, 6, 4.0)
    splits = splits_for(probs)
    sums = np.add.reduceat(split_probabilities(probs, splits), splits.firsts, axis=1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-13)


def test_tiny_probabilities_keep_their_digits() -> None:
    tiny = 1e-30
    probs = np.array([[[1 - tiny, tiny, 0.0], [1 - tiny, 0.0, tiny], [1.0, 0.0, 0.0]]])
    splits = splits_for(probs)
    found = {splits.partition(s): p for s, p in enumerate(split_probabilities(probs, splits)[0])}
    assert found[(1, 2, 4)] == pytest.approx(tiny * tiny, rel=1e-12)


def test_a_set_cannot_split_into_more_blocks_than_there_are_candidates() -> None:
    probs = np.full((1, 3, 2), 0.5)
    splits = splits_for(probs)
    assert split_probabilities(probs, splits)[0, splits.of(7).stop - 1] == 0.0


def test_many_tasks_get_a_selection_with_the_probable_draws(draw_probs: Callable[..., Floats]) -> None:
    probs = draw_probs(np.random.default_rng(0), 2, 11, 3.0)
    splits = splits_for(probs)
    part = splits.of(splits.full)
    listed = [splits.partition(s) for s in range(part.start, part.stop)]
    assert not splits.complete
    assert listed[0] == (splits.full,)
    assert tuple(1 << t for t in range(11)) in listed
    for layer in probs.argmax(axis=2):
        blocks = sorted(sum(1 << t for t in range(11) if layer[t] == c) for c in set(layer.tolist()))
        assert blocks in [sorted(p) for p in listed]
    assert (split_probabilities(probs, splits) <= 1.0).all()

"""How probable each grouping is in each layer, with all digits also where the draws are nearly certain. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from costs.errors import CostError
from costs.lattice import MOST_INTERVAL_TASKS, Floats, Interval, interval_parts, lattice_of
from costs.splits import Ints, complete_splits, split_numbers, split_probabilities

ROW_TOLERANCE = 1e-5
"""How far a row may be from the sum 1: float32 softmax of a few hundred candidates stays well within."""


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """Return `values` as an array. A tensor of torch may need a gradient or be on a GPU; it is known by its methods."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def check_rows(probs: npt.ArrayLike, shape: tuple[int, int] | None = None) -> Floats:
    """Return `probs` as float64, (L, T, C), negative rounding errors set to 0, rows scaled to sum to 1.

    Tensors are taken, too, without their gradient. Raises CostError if they are no numbers, have another shape (`shape` is
    the L and T wanted) or a row is no distribution.
    """
    try:
        array = to_numpy(probs).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise CostError(
            f"probabilities: found {type(probs).__name__} ({error}), expected numbers of shape (layers, tasks, candidates); "
            "pass an array"
        ) from None
    wanted = shape or array.shape[:2]
    if array.ndim != 3 or 0 in array.shape or array.shape[:2] != wanted:
        expected = f" = ({wanted[0]}, {wanted[1]}, C)" if shape else ""
        raise CostError(f"probabilities of shape {array.shape}: expected (layers, tasks, candidates){expected}")
    worst = max(float(np.abs(array.sum(axis=2) - 1).max()), float(-array.min()))
    if not worst <= ROW_TOLERANCE:  # so that NaN is caught too
        raise CostError(
            f"probabilities: a row differs from a distribution over candidates by {worst:.3g}, allowed is "
            f"{ROW_TOLERANCE:g}; pass the softmax of the architecture parameters"
        )
    positive = np.maximum(array, 0.0)
    result: Floats = positive / positive.sum(axis=2, keepdims=True)
    return result


def grouping_probabilities(probs: npt.ArrayLike) -> Floats:
    """Return P(kappa_l = k), the probability of every grouping k of the tasks in every layer.

    Args:
        probs: shape (L, T, C), T up to 10; probs[l, t, j] is the probability that task t takes candidate j in layer
            l. Rows that sum to 1 within 1e-5 are scaled to sum to 1 in float64.

    Returns:
        Shape (L, Bell(T)), float64, partitions in the order of `costs.lattice.lattice_of(T)`, that is one block first
        and singletons last (`costs.partitions.partitions_of` lists the same). Rows sum to 1 within 1e-12.

    Moebius inversion of the probabilities of being coarser (`costs.lattice.Lattice.unzeta`) gives the same by alternating
    sums, whose errors reach T! 1e-16: too much from eight tasks on. Here the groupings are a Markov chain, since a block splits by its own draws alone:

        P_l(k) = sum_{m coarser or equal k} P_{l-1}(m) prod_{blocks A of m} P(A splits in layer l as k has it)

    with the split probabilities of `costs.splits`. All terms are positive, so nothing is lost and nothing negative.

    Eight tasks have 167,894 terms a layer (20 ms), nine 1.6 million, ten 16.7 million (some seconds for 18 layers and
    about 0.6 GiB). Raises CostError for more tasks, and where `probs` is no distribution.
    """
    array = check_rows(probs)
    layers, tasks, _ = array.shape
    if tasks > MOST_INTERVAL_TASKS:
        raise CostError(
            f"{tasks} tasks: the probabilities of all groupings are computed for up to {MOST_INTERVAL_TASKS}; name fewer tasks"
        )
    lattice = lattice_of(tasks)
    chances = split_probabilities(array, complete_splits(tasks))
    before = np.zeros(len(lattice))
    before[0] = 1.0  # all tasks come to the first layer together
    result = np.empty((layers, len(lattice)))
    for layer in range(layers):
        chance = np.concatenate([[1.0], chances[layer]])  # of the split without blocks: nothing is left to split
        for interval, numbers in zip(lattice.intervals, split_numbers(tasks), strict=True):
            for part in interval_parts(interval):
                fine = interval.fine[part]
                moved = transitions(interval, chance, numbers[:, part])
                moved *= before[interval.coarse[:, part]]
                result[layer, fine] = moved.sum(axis=0)
        before = result[layer]
    return result


def transitions(interval: Interval, chance: Floats, numbers: Ints) -> Floats:
    """Return the probability of coming from each coarser partition, (Bell(b), n), to n partitions into b blocks.

    `chance` holds the probability of each split of one layer, `numbers` (2^b, n) the splits as `split_numbers` does.
    """
    unions = chance[numbers]
    blocks, counts = interval.shape.blocks, interval.shape.counts
    result: Floats = unions[blocks[:, 0]]
    for place in range(1, blocks.shape[1]):
        more = np.flatnonzero(counts > place)  # patterns with fewer blocks are complete
        result[more] *= unions[blocks[more, place]]
    return result

"""The expected number of groups from sums over sets of tasks, for more tasks than have their groupings listed. Needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costs.errors import CostError
from costs.groupings import check_rows
from costs.lattice import Floats

MOST_SUBSET_TASKS = 20
"""Tasks whose sets are summed over: 2^20 numbers a layer, 8 MiB."""


def expected_groups_of(probs: npt.ArrayLike) -> Floats:
    """Return the expected number of groups of each layer, (L,), for probabilities (L, T, C).

        E[groups in layer l] = sum over non-empty sets S of (-1)^(|S|-1) Q_l(S)
        Q_l(S) = prod_{i<=l} sum_j prod_{t in S} probs[i, t, j]

    What `costs.expected.expected_groups` derives, and computes differentiably and with torch. Rows that sum to 1 within 1e-5 are
    scaled to sum to 1. Twenty tasks and 18 layers take about a second. The terms alternate, so the absolute error is
    up to 2^T 1e-16.

    Raises CostError for more than twenty tasks, and where `probs` is no distribution.
    """
    array = check_rows(probs)
    layers, tasks, _ = array.shape
    if tasks > MOST_SUBSET_TASKS:
        raise CostError(
            f"{tasks} tasks: the expected number of groups is a sum over all sets of tasks, formed for up to {MOST_SUBSET_TASKS}"
        )
    array = array / array.sum(axis=2, keepdims=True)
    half = tasks // 2
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(tasks):
        sizes = np.concatenate([sizes, sizes + 1])
    signs = np.where(sizes % 2 == 1, 1.0, -1.0)
    signs[0] = 0.0
    running = np.ones(2**tasks)
    result = np.empty(layers)
    for layer in range(layers):
        # Sets in two halves of the tasks, so that the sum over candidates is one matrix product.
        running *= (_products(array[layer, half:]) @ _products(array[layer, :half]).T).ravel()
        running[sizes <= 1] = 1.0  # a task is always with itself
        result[layer] = signs @ running
    return result


def _products(rows: Floats) -> Floats:
    """Return prod_{t in S} rows[t] for all sets S of the t tasks given: (t, C) -> (2^t, C), S as bitmask."""
    products = np.ones((1, rows.shape[1]))
    for row in rows:
        products = np.concatenate([products, products * row])
    return products

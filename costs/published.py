"""The estimator of the expected cost as the paper publishes it, for comparison: it over-counts. Imports torch.

Source: Bruggemann et al., BMVC 2020, Eq. 5 and 6. The probability of a grouping k in a layer is that of the layer's own draw
being k, times the probability of all groupings of the layer before that are k or coarser; whatever is left over is charged
as if no tasks shared anything. But a draw that does not refine the grouping before it builds the coarsest grouping that is
finer than both, which is what `costs.expected` charges.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch

from costs.errors import CostError
from costs.expected import check_probs
from costs.lattice import lattice_of
from costs.table import CostTable
from costs.units import Resource

MOST_TASKS = 6
"""The estimator lists all C^T draws of a layer: 46,656 for six tasks and candidates."""


def published_layer_costs(probs: torch.Tensor, table: CostTable, resource: Resource) -> torch.Tensor:
    """Return the cost of each layer by the published estimator, shape (L,), float64, base units, for `probs` (L, T, C).

    At least the exact `costs.expected.expected_layer_costs` where costs do not fall with more groups. Differentiable.
    Raises CostError if `probs` does not fit the table or is no distribution, for more than six tasks, and where the cost
    is not a function of the number of groups.
    """
    layers, tasks = len(table.layers), len(table.tasks)
    check_probs(probs)
    if probs.shape[:2] != (layers, tasks) or tasks > MOST_TASKS:
        raise CostError(
            f"published estimator: probabilities of shape {tuple(probs.shape)}, expected ({layers}, {tasks}, C) and at most "
            f"{MOST_TASKS} tasks; the exact expected cost has no such limit"
        )
    costs = torch.as_tensor(table.count_costs(resource), device=probs.device)
    own = drawn_groupings(probs.to(torch.float64))
    counts, coarser = _lattice_tensors(tasks)
    before = own.new_zeros(own.shape[1])
    before[0] = 1.0  # all tasks come to the first layer together
    charged = []
    for layer in range(layers):
        before = own[layer] * (coarser.to(own.device) @ before)
        charged.append(before @ costs[layer, counts - 1] + (1 - before.sum()) * costs[layer, -1])
    return torch.stack(charged)


def drawn_groupings(probs: torch.Tensor) -> torch.Tensor:
    """Return the probability that a layer's own draw is each partition, (L, Bell(T)), for `probs` (L, T, C)."""
    _, tasks, candidates = probs.shape
    draws, partition = _draws(tasks, candidates)
    chances = probs[:, torch.arange(tasks), draws].prod(dim=2)  # (L, C^T)
    return probs.new_zeros(len(probs), len(lattice_of(tasks))).index_add(1, partition.to(probs.device), chances)


@lru_cache(maxsize=8)
def _draws(tasks: int, candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all draws of one layer (C^T, T), and the partition that each of them is (C^T,)."""
    with torch.inference_mode(mode=False):
        draws = np.array(list(itertools.product(range(candidates), repeat=tasks)))
        same = draws[:, :, None] == draws[:, None, :]
        first = same.argmax(axis=2)  # of each task the first one that drew the same
        labels = np.array([[len(set(row[: t + 1])) - 1 if row[t] == t else -1 for t in range(tasks)] for row in first])
        labels = np.take_along_axis(labels, first, axis=1)  # restricted growth strings
        return torch.from_numpy(draws), torch.from_numpy(lattice_of(tasks).rank(labels))


@lru_cache(maxsize=8)
def _lattice_tensors(tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of blocks of each partition (K,), and (K, K) with 1 at [k, m] where m is k or coarser."""
    with torch.inference_mode(mode=False):
        lattice = lattice_of(tasks)
        every = np.arange(len(lattice))
        return torch.tensor(lattice.counts), torch.from_numpy(
            lattice.refines(every[:, None], every[None]).astype(float)
        )

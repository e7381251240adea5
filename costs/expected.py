"""The exact expected cost of the network that a search would build, differentiable. Imports torch.

Tasks draw their candidates independently; two tasks share layer l if their draws agree in layers 1..l. Sets
of tasks are bitmasks: index S of a table over subsets stands for the set of those t with bit t set.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.function import once_differentiable

from costs.errors import CostError
from costs.forms import inverted_costs
from costs.groupings import ROW_TOLERANCE
from costs.lattice import lattice_of
from costs.table import CostTable
from costs.units import Resource, as_resource

MOST_SUBSET_TASKS = 24
"""Above this many tasks the 2^T sets of a layer are more than a gigabyte in a few layers."""


def sharing_probabilities(probs: torch.Tensor) -> torch.Tensor:
    """Return Q, the probability that the tasks of each set share each layer.

    Args:
        probs: shape (L, T, C); probs[l, t, j] is the probability that task t takes candidate j in layer l.

    Returns:
        Shape (L, 2^T), float64: Q[l, S] = prod_{i<=l} sum_j prod_{t in S} probs[i, t, j]. Single tasks have
        exactly 1; so has the empty set, which no formula uses.

    The sets are split into a low and a high half of the tasks, so the sum over j is one matrix product per
    layer and the memory is that of the result, 2^T numbers a layer, whatever C is. Nothing is divided and no
    logarithm taken: gradients are finite where probabilities are 0 or 1.

    Raises CostError if `probs` has another shape, a row is not a distribution, or there are more than 24 tasks.
    """
    check_probs(probs)
    sharing: torch.Tensor = _Sharing.apply(probs.to(torch.float64))  # type: ignore[no-untyped-call]
    return sharing


class _Sharing(torch.autograd.Function):
    """Q (L, 2^T) of float64 probabilities (L, T, C), with its gradient of first order written out.

    For few tasks most of the time of such small arrays is autograd's own, so there is one step of it and not forty.
    """

    @staticmethod
    def forward(ctx: Any, probs: torch.Tensor) -> torch.Tensor:
        layers, tasks, _ = probs.shape
        half = tasks // 2
        low, high = _products(probs[:, :half]), _products(probs[:, half:])  # (L, 2^half, C), (L, 2^(T-half), C)
        together = torch.bmm(high, low.transpose(1, 2)).view(
            layers, 2**tasks
        )  # q[l, S]; the low half is the fast index
        together[:, _small_sets(tasks, probs.device)] = 1.0
        running = together.cumprod(dim=0)
        ctx.save_for_backward(low, high, together, running)
        return running

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of `probs`, from the products over layers back to those over tasks."""
        low, high, together, running = ctx.saved_tensors
        layers, sets = together.shape
        tasks = sets.bit_length() - 1
        half = tasks // 2
        own = _before_running(gradient, together, running)
        own[:, _small_sets(tasks, own.device)] = 0.0  # single tasks are 1 whatever their rows
        own = own.view(layers, 2 ** (tasks - half), 2**half)
        upper = _unmultiply(torch.bmm(own, low), high)
        if not half:
            return upper
        return torch.cat([_unmultiply(torch.bmm(own.transpose(1, 2), high), low), upper], dim=1)


def _before_running(gradient: torch.Tensor, factors: torch.Tensor, running: torch.Tensor) -> torch.Tensor:
    """Return the gradient of `factors` (L, n), whose `running` product over rows has `gradient`.

    What comes before each row, times what it is to all that follow. torch.cumprod differentiates through divisions, and
    takes a slow path where factors are 0.
    """
    # rest[l] = gradient[l] + factors[l + 1] rest[l + 1], from the last layer to the first
    rest = gradient.clone(memory_format=torch.contiguous_format)
    rows, following = rest.unbind(0), factors.unbind(0)
    for layer in reversed(range(len(rows) - 1)):
        rows[layer].addcmul_(following[layer + 1], rows[layer + 1])
    rest[1:] *= running[:-1]
    return rest


def expected_groups(probs: torch.Tensor) -> torch.Tensor:
    """Return the expected number of groups alive in each layer, shape (L,), float64, for `probs` (L, T, C).

        E[groups in layer l] = sum over non-empty S of (-1)^(|S|-1) Q_l(S), with Q of `sharing_probabilities`

    Each group counts once: the sum of (-1)^(|S|-1) over its non-empty subsets S is 1 - (1 - 1)^n = 1 (inclusion and
    exclusion). A set S lies in one group with probability Q_l(S), so the expectation of the sum over all groups is the
    formula. What is to be expected is Eq. 5 of the paper (Bruggemann et al., Automated Search for Resource-Efficient
    Branched Multi-Task Networks, BMVC 2020). Its recursion for it, Eq. 6, over-counts as published: it charges T branches
    wherever a draw does not refine the grouping before it, which is not the network that is built.

    There are 2^T - 1 terms per layer, 31 for five tasks. T = 20 takes 1,048,576 a layer, 8 MiB; with 18 layers and the
    backward pass 0.5 to 0.7 GiB beside PyTorch itself, and about a second on two cores (`benchmarks/expected_cost.py`). Gradients are of first order
    only.

    Raises CostError as `sharing_probabilities` does.
    """
    return sharing_probabilities(probs) @ _signs(probs.shape[1], probs.device)


def expected_cost(probs: torch.Tensor, table: CostTable, resource: Resource) -> torch.Tensor:
    """Return the expected cost of the drawn network in the resource's base unit, fixed part included.

    The sum of `expected_layer_costs` and the fixed part. A scalar, float64 (computed in float64 also for float32
    `probs`, whose gradient is float32 again), once differentiable in `probs` (L, T, C).

    Raises CostError if `probs` does not fit the table or is no distribution, the table lacks the resource, or the
    resource is a peak, whose expected maximum over layers is not what the layers' expected values say.
    """
    resource = as_resource(resource)
    if resource.is_peak:
        raise CostError(
            f"{resource} is a maximum over layers, and its expected value is no sum over them; use expected_layer_costs "
            "for the expected value of each layer, CostTable.architecture_cost for the exact one of an architecture, or "
            "a budget of best_architecture"
        )
    return expected_layer_costs(probs, table, resource).sum() + table.fixed_cost(resource)


def expected_layer_costs(probs: torch.Tensor, table: CostTable, resource: Resource) -> torch.Tensor:
    """Return the expected cost of each layer, shape (L,), float64, in base units, for `probs` (L, T, C).

    The table says what its costs depend on, and so which form is used:

    - proportional to the number of groups: c_l E[groups in layer l], see `expected_groups`; to about T = 20.
    - the number of groups, or the partition: sum_m chat_l(m) F_l(m) over all partitions m, F_l(m) = prod_B Q_l(B),
      with chat_l from `costs.forms.inverted_costs` (which derives the form), computed once per table; up to T = 10. Its
      terms alternate: the error, relative to the layer's largest cost, grows with T, up to about 1e-16 times the number
      of ordered partitions of the tasks: 75 for four, 545,835 for eight. (`costs.forms.expected_from_groupings` has no
      such error, and no gradient.) Partitions whose chat is 0 in all layers are left out.

    Raises CostError if `probs` does not fit the table or is no distribution, the table lacks the resource, or there
    are too many tasks for the form.
    """
    _check_tensor(probs)
    if probs.ndim != 3 or probs.shape[:2] != (len(table.layers), len(table.tasks)):
        raise CostError(
            f"probabilities of shape {tuple(probs.shape)} for the table of {table.backbone}: expected (layers, tasks, "
            f"candidates) = ({len(table.layers)}, {len(table.tasks)}, C)"
        )
    if table.dependence(resource) == "groups_proportional":
        return expected_groups(probs) * torch.as_tensor(table.layer_costs(resource), device=probs.device)
    inverted = inverted_costs(table, resource)
    used = np.flatnonzero(inverted.any(axis=0))
    weights = torch.as_tensor(inverted[:, used], device=probs.device)
    blocks = _shared_blocks(len(table.tasks))[:, used]
    return (_coarser(sharing_probabilities(probs), blocks) * weights.T).sum(dim=0)


def _coarser(sharing: torch.Tensor, blocks: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return F, the probability of each partition or a coarser one, (n, L), for Q (L, 2^T) and its blocks (places, n)."""
    # Rows of layers: picking whole rows is fast in both directions, picking single numbers is not.
    rows = sharing.T.contiguous()
    indices = torch.as_tensor(blocks, device=sharing.device)
    result = rows.index_select(0, indices[0])
    for place in indices[1:]:
        result = result * rows.index_select(0, place)
    return result


@lru_cache(maxsize=16)
def _shared_blocks(tasks: int) -> npt.NDArray[np.int64]:
    """Return the blocks of more than one task of each partition, (max(T // 2, 1), Bell(T)), then zeros.

    Q of the empty set is 1, as is that of a single task.
    """
    blocks = lattice_of(tasks).blocks
    several = np.where(blocks & (blocks - 1), blocks, 0)
    result: npt.NDArray[np.int64] = -np.sort(-several, axis=1)[:, : max(tasks // 2, 1)].T
    return result


def _products(probs: torch.Tensor) -> torch.Tensor:
    """Return prod_{t in S} probs[:, t] for all sets S of the t tasks given: (L, t, C) -> (L, 2^t, C)."""
    layers, tasks, candidates = probs.shape
    products = probs.new_empty(layers, 2**tasks, candidates)
    products[:, 0] = 1.0
    for t in range(tasks):
        torch.mul(products[:, : 2**t], probs[:, t : t + 1], out=products[:, 2**t : 2 ** (t + 1)])
    return products


def _unmultiply(gradient: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the t tasks (L, t, C) whose `_products` (L, 2^t, C) have `gradient`."""
    layers, sets, candidates = products.shape
    with_it, without = _neighbours(sets.bit_length() - 1, products.device)
    shape = (layers, *with_it.shape, candidates)
    terms = gradient.index_select(1, with_it.ravel()) * products.index_select(1, without.ravel())
    return terms.view(shape).sum(dim=2)


@lru_cache(maxsize=32)
def _neighbours(tasks: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each task the sets that have it and the same sets without it, (t, 2^(t-1)) each."""
    with torch.inference_mode(mode=False):
        sets = torch.arange(2**tasks, device=device)
        bits = [1 << t for t in range(tasks)]
        with_it = torch.stack([sets[sets & bit > 0] for bit in bits]) if bits else sets[:0].view(0, 0)
        return with_it, with_it - torch.tensor(bits, dtype=torch.int64, device=device)[:, None]


@lru_cache(maxsize=32)
def _sizes(tasks: int) -> torch.Tensor:
    """Return the number of tasks in each set, shape (2^T,), on the CPU."""
    # Not an inference tensor even if the first call comes from inference mode: those cannot be saved for a
    # gradient.
    with torch.inference_mode(mode=False):
        sizes = torch.zeros(1, dtype=torch.int8)
        for _ in range(tasks):
            sizes = torch.cat([sizes, sizes + 1])
        return sizes


@lru_cache(maxsize=32)
def _signs(tasks: int, device: torch.device) -> torch.Tensor:
    """Return (-1)^(|S|-1), and 0 for the empty set, shape (2^T,), float64."""
    with torch.inference_mode(mode=False):
        signs = (1.0 - 2.0 * ((_sizes(tasks) + 1) % 2)).to(torch.float64)
        signs[0] = 0.0
        return signs.to(device)


@lru_cache(maxsize=32)
def _small_sets(tasks: int, device: torch.device) -> torch.Tensor:
    """Return the sets of at most one task, (T + 1,)."""
    with torch.inference_mode(mode=False):
        return torch.tensor([0, *(1 << t for t in range(tasks))], device=device)


def _check_tensor(probs: object) -> None:
    if not isinstance(probs, torch.Tensor):
        raise CostError(
            f"probabilities: found {type(probs).__name__}, expected a torch.Tensor, in which the result is differentiable; "
            "pass torch.as_tensor(probabilities)"
        )


def check_probs(probs: torch.Tensor) -> None:
    """Raise CostError unless `probs` is a tensor of floats (L, T, C), up to 24 tasks, whose rows sum to 1."""
    _check_tensor(probs)
    if probs.ndim != 3 or 0 in probs.shape or not probs.is_floating_point():
        raise CostError(
            f"probabilities of shape {tuple(probs.shape)} and type {probs.dtype}: expected floating point numbers of "
            "shape (layers, tasks, candidates), none of them 0"
        )
    if probs.shape[1] > MOST_SUBSET_TASKS:
        raise CostError(
            f"{probs.shape[1]} tasks: there are 2^T sets of tasks in each layer, which are formed for up to {MOST_SUBSET_TASKS} tasks; name fewer"
        )
    with torch.no_grad():
        values = probs.detach().to(torch.float64)
        worst = torch.maximum((values.sum(-1) - 1).abs().max(), -values.min()).item()
    if not worst <= ROW_TOLERANCE:  # so that NaN is caught too
        raise CostError(
            f"probabilities: a row differs from a distribution over candidates by {worst:.3g}, allowed is "
            f"{ROW_TOLERANCE:g}; pass the softmax of the architecture parameters"
        )

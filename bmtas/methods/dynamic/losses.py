"""What dynamic topologies add to the tasks' losses, the scalars of arcs, and the exact expected cost of the networks.

The distribution that costs are expected under is our own choice: each task keeps each arc independently, with the sigmoid of its
parameter as probability. Dead ends count: an arc is computed wherever it is kept, and a state without an arc into it is zero. The
network that is derived has no dead ends, so what it keeps costs no more than a draw with the same arcs would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.methods.dynamic.topology import IMAGE_STATE, ArcCosts, Topology
from costs.units import Resource


def scalars_of(topology: Topology, logits: Tensor) -> Tensor:
    """Return the scalars of all arcs, (T, A), from their parameters (T, A): sigmoids over the sum of those into the same state.

    The normalisation over all arcs into a state, read-in and read-outs included, is our own choice.
    """
    logs = F.logsigmoid(logits)
    places = [list(into) for into in topology.into if into]
    shares = torch.cat([torch.softmax(logs[:, into], dim=1) for into in places], dim=1)
    order = torch.tensor([place for into in places for place in into]).argsort()
    return shares[:, order]


def squeeze_loss(links: Tensor, most: float) -> Tensor:
    """Return the sum over tasks of max(0, sum of sigmoids - `most`), a scalar, for the parameters (T, E) of the links.

    The supplement of the paper names the loss and its weight; this form, which bounds the number of links, is our own choice.
    """
    return F.relu(torch.sigmoid(links).sum(dim=1) - most).sum()


@dataclass(frozen=True)
class ExpectedCost:
    """The expected cost of the merged graph, exact, differentiable in the probabilities.

    Tasks of a set S have one value at state j if each keeps one and the same arc a = (i, j) alone and they have one value at i, or
    none keeps any. Arcs into j say nothing of those into i, so with p_at the probability that task t keeps a

        V_j(S) = sum_a V_i(S) prod_{t in S} p_at prod_{b into j, b != a} (1 - p_bt)  +  prod_{t in S} prod_a (1 - p_at)

    for sets of several tasks, and 1 for one task. The values that arc a is applied to are as many as (inclusion and exclusion)

        sum over non-empty S of (-1)^(|S| - 1) V_i(S) prod_{t in S} p_at

    Sets are in the order of bitmasks. The formulas are our own.
    """

    topology: Topology
    costs: Mapping[Resource, ArcCosts]

    def __call__(self, probabilities: Tensor) -> dict[Resource, Tensor]:
        """Return the expected cost in each resource, scalars in base units, for the probabilities (T, A)."""
        applied = self.applied(probabilities)
        return {
            r: self._parameters(probabilities, c) if c.parameters else self._sum(applied, c)
            for r, c in self.costs.items()
        }

    def applied(self, probabilities: Tensor) -> Tensor:
        """Return the expected number of values that each arc is applied to, (A,), for the probabilities (T, A)."""
        signs = 1.0 - 2.0 * _even_sets(len(probabilities)).to(probabilities)
        signs[0] = 0.0
        together = self._together(probabilities)
        sets = torch.stack([_products(p) for p in probabilities.T])
        sources = torch.stack([together[source] for source, _ in self.topology.arcs])
        return (sets * sources) @ signs

    def _together(self, probabilities: Tensor) -> list[Tensor]:
        """Return for each state 0 to n the probability that all tasks of each set (2^T) have one value there."""
        topology = self.topology
        single = _single_sets(len(probabilities)).to(probabilities)
        found = [torch.ones_like(single)]
        for state in range(IMAGE_STATE + 1, topology.read_out):
            into = list(topology.into[state])
            alone = _alone(probabilities[:, into])
            equal = _products((1.0 - probabilities[:, into]).prod(dim=1))
            for k, place in enumerate(into):
                equal = equal + found[topology.arcs[place][0]] * _products(alone[:, k])
            found.append(torch.where(single > 0, single, equal))
        return found

    def _sum(self, applied: Tensor, costs: ArcCosts) -> Tensor:
        return costs.fixed + applied @ self._per_arc(costs, applied)

    def _parameters(self, probabilities: Tensor, costs: ArcCosts) -> Tensor:
        """Operations that any task keeps, and as many scalars as arcs into a state of a task, if they are not one."""
        used = 1.0 - (1.0 - probabilities).prod(dim=0)
        scalars = probabilities.sum()
        for into in self.topology.into[IMAGE_STATE + 1 :]:
            scalars = scalars - _alone(probabilities[:, list(into)]).sum()
        return costs.fixed + used @ self._per_arc(costs, probabilities) + scalars

    def _per_arc(self, costs: ArcCosts, like: Tensor) -> Tensor:
        return like.new_tensor([costs.per_arc[arc] for arc in self.topology.arcs])


def _alone(probabilities: Tensor) -> Tensor:
    """Return for (T, K) the probability that each of K arcs is kept and the others are not, (T, K), without dividing."""
    count = probabilities.shape[1]
    others = (1.0 - probabilities)[:, None, :].expand(-1, count, -1)
    return torch.where(torch.eye(count, dtype=torch.bool), probabilities[:, None, :], others).prod(dim=2)


def _products(values: Tensor) -> Tensor:
    """Return for (T,) the product over each set of tasks, (2^T,), the empty one first."""
    products = values.new_ones(1)
    for value in values:
        products = torch.cat([products, products * value])
    return products


def _sizes(tasks: int) -> Tensor:
    return torch.tensor([mask.bit_count() for mask in range(2**tasks)])


def _even_sets(tasks: int) -> Tensor:
    return _sizes(tasks) % 2 == 0


def _single_sets(tasks: int) -> Tensor:
    return _sizes(tasks) == 1

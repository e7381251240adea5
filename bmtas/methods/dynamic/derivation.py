"""Flow-based reduction: from learned scalars to the arcs that each task keeps within the budgets, and the weights to begin with.

The paper (Choi & Im, CVPR 2023) deletes links of little information flow. How flow is measured, that reduction goes on until the
merged graph is within the budgets, and what happens where single paths are still too dear, is our own choice:

    flow        the weights of the paths over kept arcs, from the image to what heads read (half for the tap, half for the
                read-out; all for the read-out where the task reads no tap), a path weighing the product of its scalars. Over all arcs it is 1, and deleting an arc takes f w b of it: the
                flow f that reaches its source, its scalar w, and the share b of its target's value that is read
    reduction   arcs are deleted in ascending order of that per cost, but for those without which something is cut off, while
                `keep_flow` of a task's flow is left; then, tasks against each other, until the network is within the budgets
    agreement   where no task has an arc to spare, tasks take over the arcs of others or the cheapest way, by the least loss of
                flow per cost saved; in the end all are on the cheapest way

A network without an arc never costs more than with it: where that makes a value of a task another one than before, it was a sum,
and so the task's own already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bmtas.errors import UsageError
from bmtas.methods.dynamic.losses import scalars_of
from bmtas.methods.dynamic.space import TopologySpace
from bmtas.methods.dynamic.topology import IMAGE_STATE, Arc, Kept, Topology, in_arcs
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.states import state_name
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Budget, Resource

_SUMS = "sums."
_ROUNDING = 1e-9
"""Flows that differ by less are equal."""


@dataclass(frozen=True)
class Reduced:
    """The arcs that each task keeps, the share of its flow that they carry, and which tasks had to take over another's arcs."""

    kept: tuple[Kept, ...]
    flows: tuple[float, ...]
    agreed: tuple[bool, ...]


@dataclass(frozen=True)
class Flow:
    """The flow of one task: its topology and the scalar of each arc, those into a state summing to 1."""

    topology: Topology
    scalars: Mapping[Arc, float]

    def through(self, kept: Iterable[Arc]) -> dict[Arc, float]:
        """Return the flow over each of the kept arcs, which is what the whole flow loses without it."""
        arcs = sorted(kept, key=lambda arc: arc[1])
        reaching = self._reaching(arcs)
        read = [0.0] * (self.topology.read_out + 1)
        for state in self.topology.outputs:
            read[state] += 1.0 / len(self.topology.outputs)
        for source, target in reversed(arcs):
            read[source] += self.scalars[source, target] * read[target]
        return {(i, j): reaching[i] * self.scalars[i, j] * read[j] for i, j in arcs}

    def total(self, kept: Iterable[Arc]) -> float:
        """Return the whole flow over the kept arcs, in [0, 1]."""
        reaching = self._reaching(sorted(kept, key=lambda arc: arc[1]))
        return sum(reaching[state] for state in self.topology.outputs) / len(self.topology.outputs)

    def _reaching(self, arcs: Sequence[Arc]) -> list[float]:
        found = [0.0] * (self.topology.read_out + 1)
        found[IMAGE_STATE] = 1.0
        for source, target in arcs:
            found[target] += self.scalars[source, target] * found[source]
        return found


def flows_of(topologies: Sequence[Topology], logits: Tensor) -> list[Flow]:
    """Return the flow of each task, for its graph and the parameters (T, A) of its arcs."""
    scalars = scalars_of(topologies[0], logits.detach().double()).tolist()
    return [Flow(t, dict(zip(t.arcs, row, strict=True))) for t, row in zip(topologies, scalars, strict=True)]


def reduce_within(
    space: TopologySpace, logits: Tensor, keep_flow: float, table: CostTable, budgets: Sequence[Budget]
) -> Reduced:
    """Return what the tasks keep within all budgets, for the parameters (T, A) of their arcs.

    Raises BudgetError where the cheapest way, common to all tasks, is over a budget.
    """
    flows = flows_of(space.topologies, logits)
    reduction = _Reduction(space, flows, table, budgets)
    reduction.keep(keep_flow)
    reduction.delete_within()
    before = list(reduction.kept)
    reduction.agree_within()
    after = tuple(reduction.kept)
    totals = tuple(flow.total(kept) for flow, kept in zip(flows, after, strict=True))
    return Reduced(after, totals, tuple(a != b for a, b in zip(before, after, strict=True)))


class _Reduction:
    """What the tasks keep while it becomes less."""

    def __init__(
        self, space: TopologySpace, flows: Sequence[Flow], table: CostTable, budgets: Sequence[Budget]
    ) -> None:
        self.topologies, self.flows = space.topologies, flows
        self.kept = [frozenset(space.topology.arcs)] * len(flows)
        self.costs = [space.costs(table, b.resource) for b in budgets]
        self.limits = [b.value for b in budgets]
        self.cheapest: tuple[Kept, ...] = ()
        if budgets:
            space.check(table, budgets)
            self.cheapest = space.cheapest(self.costs, self.limits)
        weighing = [(c, 1.0 / b.value) for c, b in zip(self.costs, budgets, strict=True)]
        weighing = weighing or [(space.costs(table, Resource.MADDS), 1.0)]
        self._weight = {arc: sum(c.per_arc[arc] * w for c, w in weighing) for arc in space.topology.arcs}

    def load(self, kept: Sequence[Kept]) -> float:
        """Return the sum over budgets of cost per budget."""
        return sum(c.total(kept) / limit for c, limit in zip(self.costs, self.limits, strict=True))

    def over(self) -> bool:
        """Say whether a budget is exceeded."""
        return any(c.total(self.kept) > limit for c, limit in zip(self.costs, self.limits, strict=True))

    def keep(self, least: float) -> None:
        """Delete while each task keeps `least` of its flow."""
        for task, flow in enumerate(self.flows):
            left = flow.total(self.kept[task])
            while (found := self._least(task, most=left - least + _ROUNDING)) is not None:
                self._delete(task, found[1])
                left = flow.total(self.kept[task])

    def delete_within(self) -> None:
        """Delete until the network is within the budgets or no task has an arc to spare."""
        found = [self._least(task) for task in range(len(self.flows))]
        while self.over():
            ready = [(*pair, task) for task, pair in enumerate(found) if pair is not None]
            if not ready:
                return
            _, arc, task = min(ready)
            self._delete(task, arc)
            found[task] = self._least(task)

    def agree_within(self) -> None:
        """Let tasks take over each other's arcs, or the cheapest way, until the network is within the budgets."""
        while self.over():
            now, moves = self.load(self.kept), []
            groups = sorted({*self.kept}, key=sorted)
            for group in groups:
                members = [t for t, kept in enumerate(self.kept) if kept == group]
                for other in (o for o in {*groups, *self.cheapest} if o != group):
                    if not all(self.topologies[t].connected(other) for t in members):
                        continue  # the other's task reads no tap, one of these does
                    moved = [self.topologies[t].alive(other) if t in members else k for t, k in enumerate(self.kept)]
                    saved = now - self.load(moved)
                    if saved > 0:
                        lost = sum(self.flows[t].total(group) - self.flows[t].total(moved[t]) for t in members)
                        moves.append((lost / saved, sorted(other), members, moved))
            self.kept = min(moves)[-1] if moves else list(self.cheapest)

    def _least(self, task: int, most: float = float("inf")) -> tuple[float, Arc] | None:
        """Return the arc of least flow per cost, with that ratio, that is no more than `most` and cuts nothing off."""
        kept = self.kept[task]
        through = self.flows[task].through(kept)
        for ratio, arc in sorted((through[arc] / self._weight[arc], arc) for arc in kept):
            if through[arc] <= most and self.topologies[task].connected(kept - {arc}):
                return ratio, arc
        return None

    def _delete(self, task: int, arc: Arc) -> None:
        self.kept[task] = self.topologies[task].alive(self.kept[task] - {arc})


def sum_scalars(flow: Flow, kept: Kept) -> dict[int, list[float]]:
    """Return the scalars of each state that several kept arcs lead to, by source: those of the search, summing to 1 again."""
    found = {}
    for state, arcs in in_arcs(kept).items():
        values = [flow.scalars[arc] for arc in arcs]
        if len(values) > 1:
            total = sum(values)
            found[state] = [v / total for v in values] if total > 0 else [1.0 / len(values)] * len(values)
    return found


def start_network(
    space: TopologySpace, tasks: Sequence[Task], reduced: Reduced, logits: Tensor, rewound: Mapping[str, Tensor]
) -> GraphNetwork:
    """Return the network that fine-tuning begins with: the weights of the warm-up's end, and the scalars of the search.

    Raises UsageError where `rewound` lacks a weight that is no scalar.
    """
    network = build_network(space.architecture(reduced.kept), tasks)
    fresh = network.state_dict()
    if missing := [name for name in fresh if name not in rewound and not name.startswith(_SUMS)]:
        raise UsageError(
            f"the search's weights have no {missing[0]} ({len(missing)} of {len(fresh)} are missing): they are of another network than "
            "the one derived. Search again"
        )
    network.load_state_dict({name: rewound.get(name, value) for name, value in fresh.items()})
    for task, flow, kept in zip(space.tasks, flows_of(space.topologies, logits), reduced.kept, strict=True):
        for state, values in sum_scalars(flow, kept).items():
            weights = network.get_parameter(f"sums.{len(values)}.{state_name(state)}.{task}.weights")
            with torch.no_grad():
                weights.copy_(torch.tensor(values))
    return network

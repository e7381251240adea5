"""The space of dynamic topologies, after Choi & Im (CVPR 2023): for every task a graph of hidden states, made of arcs it keeps.

The states have the shapes of the backbone's stem and layers but for the last one (`topology` says which arcs there are).
Parameters of arcs are shared by all tasks. A state is the weighted sum of what arrives over the arcs that a task keeps. Over a
single arc it is what arrives, without a scalar: so tasks that keep the same single arcs from the image on compute the same, and
compute it once. This is our own choice, as are the last layer of the encoder (the ASPP module) and the head after the
read-out, which each task has for itself; the tap of a dense task's head is the task's own state at the tap's place. The head
of a classification task reads no tap; in its place it is given the last layer's features again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING
from functools import cached_property
from typing import Any

import numpy as np

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.errors import BudgetError
from bmtas.graph import Expression, head_name, layer_name
from bmtas.methods.dynamic.settings import Own
from bmtas.methods.dynamic.topology import IMAGE_STATE, Arc, ArcCosts, Kept, Topology, in_arcs
from bmtas.methods.dynamic.ways import cheapest_way
from bmtas.networks.backbone import Backbone
from bmtas.networks.operations import Kit
from bmtas.networks.states import hidden_states, state_name
from costs.exact_sums import exact_sum
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity

SHARED = "shared"
"""Name of the parameters of arcs, which all tasks share."""


@dataclass(frozen=True)
class TopologySpace:
    """All networks of `tasks` over the states of `backbone` whose links skip less than `flow` states; `dense` tasks have a tap."""

    backbone: Backbone
    tasks: tuple[str, ...]
    dense: frozenset[str]
    flow: int

    @cached_property
    def topology(self) -> Topology:
        """The graph of which each task keeps a part, with the tap if any task reads it."""
        reads = bool(self.dense) and self.backbone.tap < self.backbone.layers - 1
        tap = self.backbone.tap + 2 if reads else None  # v_1 has the stem's shape
        return Topology(hidden_states(Kit(self.backbone, {})), self.flow, tap)

    @cached_property
    def topologies(self) -> tuple[Topology, ...]:
        """The graph as each task sees it: the arcs of `topology`, but no tap for a task that is not dense."""
        blind = replace(self.topology, tap=None)
        return tuple(self.topology if task in self.dense else blind for task in self.tasks)

    def architecture(self, kept: Sequence[Kept]) -> WiredArchitecture:
        """Return the network in which each task keeps these arcs, `Topology.alive` and `Topology.connected` in its own graph."""
        parts = zip(self.tasks, self.topologies, kept, strict=True)
        heads = {task: self._head(task, topology, arcs) for task, topology, arcs in parts}
        return WiredArchitecture.of(self.backbone.name, Method.DYNAMIC.value, heads)

    def _head(self, task: str, topology: Topology, kept: Kept) -> Expression:
        values: dict[int, Expression] = {}
        for target, arcs in sorted(in_arcs(kept).items()):
            inputs = tuple(
                Expression(topology.operation(arc), SHARED, (values[arc[0]],) if arc[0] != IMAGE_STATE else ())
                for arc in arcs
            )
            values[target] = inputs[0] if len(inputs) == 1 else self._sum(task, target, inputs)
        last = Expression(layer_name(self.backbone.layers - 1), task, (values[topology.read_out],))
        tap = last if topology.tap is None else values[topology.tap]
        return Expression(head_name(task), task, (last, tap))

    @staticmethod
    def _sum(task: str, state: int, inputs: tuple[Expression, ...]) -> Expression:
        return Expression(f"sums.{len(inputs)}", f"{state_name(state)}.{task}", inputs)

    def everything(self) -> tuple[Kept, ...]:
        """Return all arcs for all tasks: the dearest network, since another arc never makes two values equal."""
        return (frozenset(self.topology.arcs),) * len(self.tasks)

    def cover(self) -> Iterator[WiredArchitecture]:
        """Yield the network with all arcs, then such with 2, 3, ... read-outs of the chain of all states, for sums of all sizes."""
        yield self.architecture(self.everything())
        topology = self.topology
        chain = [(j - 1, j) for j in range(1, topology.read_out + 1)]
        for count in range(2, len(topology.states)):
            outs = [(i, topology.read_out) for i in range(topology.read_out - count, topology.read_out)]
            yield self.architecture((topology.alive({*chain, *outs}),) * len(self.tasks))

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return a network in which tasks keep each arc with one probability, drawn evenly from 0 to 1, and a way to each output.

        Every other task, by chance, keeps what the one before it keeps but for a quarter of the arcs drawn anew.
        """
        return self.architecture(self.random_kept(rng))

    def random_kept(self, rng: np.random.Generator) -> tuple[Kept, ...]:
        """Return what `random` makes a network of: the arcs of each task."""
        arcs, share = self.topology.arcs, rng.random()
        masks = [rng.random(len(arcs)) < share for _ in self.tasks]
        for before, mask in itertools.pairwise(masks):
            if rng.random() < 0.5:
                mask[:] = np.where(rng.random(len(arcs)) < 0.75, before, mask)
        way = self._random_way(rng)
        return tuple(
            topology.alive({*way, *(arc for arc, keep in zip(arcs, mask, strict=True) if keep)})
            for topology, mask in zip(self.topologies, masks, strict=True)
        )

    def _random_way(self, rng: np.random.Generator) -> set[Arc]:
        """Return arcs that lead from the image to all outputs, walked backwards by chance."""
        way = set()
        for state in self.topology.outputs:
            while state != IMAGE_STATE:
                arc = self.topology.arcs[rng.choice(self.topology.into[state])]
                way.add(arc)
                state = arc[0]
        return way

    def costs(self, table: CostTable, resource: Resource) -> ArcCosts:
        """Return what networks of the space are made of, by `table`. Raises CostError if it does not know the resource."""
        last = table.operation_cost(layer_name(self.backbone.layers - 1), resource)
        heads = [table.operation_cost(head_name(task), resource) for task in self.tasks]
        per_arc = {arc: table.operation_cost(self.topology.operation(arc), resource) for arc in self.topology.arcs}
        fixed = exact_sum([*[last] * len(self.tasks), *heads])
        return ArcCosts(per_arc, fixed, parameters=resource is Resource.PARAMS)

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return the cost with the cheapest way to all outputs, common to all tasks, and with all arcs for all tasks."""
        costs = self.costs(table, resource)
        return costs.total(self.cheapest([costs], [1.0])), costs.total(self.everything())

    def cheapest(self, costs: Sequence[ArcCosts], limits: Sequence[float]) -> tuple[Kept, ...]:
        """Return the arcs of each task where all are on the `cheapest_way` under these limits, as far as they need it."""
        way = cheapest_way(self.topology, costs, limits)
        return tuple(topology.alive(way) for topology in self.topologies)

    def check(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        """Raise BudgetError where no network is within all budgets: where the cheapest way under them is over one."""
        costs = [self.costs(table, b.resource) for b in budgets]
        if not budgets:
            return
        nearest = self.cheapest(costs, [b.value for b in budgets])
        totals = [c.total(nearest) for c in costs]
        for budget, total in zip(budgets, totals, strict=True):
            if total > budget.value:
                least, most = self.reach(table, budget.resource)
                low = format_quantity(least, budget.resource, digits=4, rounding=ROUND_CEILING)
                high = format_quantity(most, budget.resource, digits=4)
                together, near = "", ""
                if len(budgets) > 1:
                    pairs = zip(totals, budgets, strict=True)
                    told = (format_quantity(t, b.resource, digits=4, rounding=ROUND_CEILING) for t, b in pairs)
                    together = f" together with {', '.join(b.text for b in budgets if b is not budget)}"
                    near = f"; nearest to all budgets is one with {' and '.join(told)}"
                raise BudgetError(
                    f"budget {budget.text}{together}: dynamic reaches from {low} (all tasks on the cheapest way) to {high} (all arcs for "
                    f"all tasks){near}. Raise the budget, or take another --method"
                )


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> TopologySpace:
    """Return the space for the backbone and tasks of `kit` under the method's own settings."""
    dense = frozenset(name for name, task in kit.tasks.items() if task.dense)
    return TopologySpace(kit.backbone, tuple(kit.tasks), dense, Own.model_validate(own).flow)

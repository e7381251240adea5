"""The space of MTL-NAS: which features of the other tasks' backbones are fused into the outputs of one's own layers.

Every task has a whole backbone of its own. A node is the stem or a layer within one of the backbone's stages; after each node a task
fuses its own output with the raw outputs (before their own fusion) of other tasks at nodes of the same stage, at most two nodes
earlier (Gao et al., CVPR 2020, section 5.1). Within a stage all outputs have one shape, so nothing is resized. The paper has two
tasks; with more, all other tasks are sources, which is our own choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.graph import Expression, head_name
from bmtas.networks.backbone import Backbone
from bmtas.networks.operations import Kit
from costs.exact_sums import exact_sum
from costs.table import CostTable
from costs.units import Budget, Resource

MOST_BACK = 2
"""A source is at most so many nodes before its target."""


@dataclass(frozen=True)
class Edge:
    """Raw features of `source_task` at `source_node` that `task` may fuse at `node`; nodes by name, as in cost tables."""

    task: str
    node: str
    source_task: str
    source_node: str


def fusion_name(node: str, inputs: int) -> str:
    """Return the operation that fuses `inputs` outputs of `node`, the own one among them."""
    return f"fusions.{node}.{inputs}"


@dataclass(frozen=True)
class FusionSpace:
    """All subsets of the edges between the backbones of `tasks`. Raises UsageError for one task, which has nothing to fuse."""

    backbone: Backbone
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the number of tasks."""
        if len(self.tasks) < 2:
            raise UsageError(
                f"--method mtl-nas fuses features of several tasks, found {list(self.tasks)} alone; name two tasks or more, or "
                "take --method single"
            )

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of a backbone, in order."""
        return tuple(name for stage in self.backbone.stage_names() for name in stage)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges: by target task, target node, source node, source task. Those of one target follow each other."""
        return tuple(
            Edge(task, stage[j], other, stage[i])
            for task in self.tasks
            for stage in self.backbone.stage_names()
            for j in range(len(stage))
            for i in range(max(0, j - MOST_BACK), j + 1)
            for other in self.tasks
            if other != task
        )

    @cached_property
    def targets(self) -> dict[tuple[str, str], slice]:
        """The places in `edges` of those of each target (task, node)."""
        places: dict[tuple[str, str], slice] = {}
        for place, edge in enumerate(self.edges):
            key = edge.task, edge.node
            places[key] = slice(places[key].start if key in places else place, place + 1)
        return places

    def architecture(self, kept: Sequence[bool]) -> WiredArchitecture:
        """Return the network with the edges that are `kept`, one value per edge.

        A target without an edge keeps its fusion, with its own features alone: the layers after it were trained with it.
        """
        raw: dict[tuple[str, str], Expression] = {}
        fused: dict[tuple[str, str], Expression] = {}
        order = ("stem", *self.backbone.layer_names())
        for before, node in zip((None, *order[:-1]), order, strict=True):
            for task in self.tasks:
                raw[task, node] = Expression(node, task, (fused[task, before],) if before else ())
            for task in self.tasks:
                fused[task, node] = self._fused(task, node, raw, kept) if node in self.nodes else raw[task, node]
        tap = order[self.backbone.tap + 1]
        heads = {t: Expression(head_name(t), t, (fused[t, order[-1]], fused[t, tap])) for t in self.tasks}
        return WiredArchitecture.of(self.backbone.name, Method.MTL_NAS.value, heads)

    def _fused(self, task: str, node: str, raw: dict[tuple[str, str], Expression], kept: Sequence[bool]) -> Expression:
        place = self.targets[task, node]
        chosen = [e for e, keep in zip(self.edges[place], kept[place], strict=True) if keep]
        inputs = (raw[task, node], *(raw[e.source_task, e.source_node] for e in chosen))
        return Expression(fusion_name(node, len(inputs)), task, inputs)

    def cover(self) -> Iterable[WiredArchitecture]:
        """Yield the networks in which every target keeps its first k edges, or all if it has fewer, for all k."""
        place = [i - self.targets[edge.task, edge.node].start for i, edge in enumerate(self.edges)]
        for count in range(max(place) + 2):
            yield self.architecture([i < count for i in place])

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return a network whose edges are kept with one probability, itself drawn evenly from 0 to 1."""
        return self.architecture((rng.random(len(self.edges)) < rng.random()).tolist())

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return the cost without any edge, and with all of them: each edge makes its fusion wider."""
        none = self.floor(table, resource)
        return none, none + exact_sum(self.edge_costs(table, resource))

    def check(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        """Accept all budgets within reach: the network without an edge is the cheapest in every resource."""

    def floor(self, table: CostTable, resource: Resource) -> float:
        """Return what is paid in any case, in base units: all backbones and heads, and fusions of one input."""
        names = ["stem", *self.backbone.layer_names(), *(fusion_name(node, 1) for node in self.nodes)]
        each = [table.operation_cost(name, resource) for name in names]
        return exact_sum([*each * len(self.tasks), *(table.operation_cost(head_name(t), resource) for t in self.tasks)])

    def edge_costs(self, table: CostTable, resource: Resource) -> list[float]:
        """Return what each edge adds, in base units: one more input of the 1x1 convolution of its fusion.

        It is the same for the first and the last of a target, so that the cost of a network is a sum over its edges.
        """
        more = {
            node: table.operation_cost(fusion_name(node, 2), resource)
            - table.operation_cost(fusion_name(node, 1), resource)
            for node in self.nodes
        }
        return [more[edge.node] for edge in self.edges]


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> FusionSpace:
    """Return the space for the backbone and tasks of `kit`; no setting changes it. Raises UsageError for one task."""
    return FusionSpace(kit.backbone, tuple(kit.tasks))

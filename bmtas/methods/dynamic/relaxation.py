"""The relaxed network of dynamic topologies: all arcs for all tasks, each state a sum weighted by learned scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bmtas.config import SearchSettings
from bmtas.data.batches import Batch
from bmtas.graph import Node
from bmtas.methods.dynamic.losses import ExpectedCost, scalars_of, squeeze_loss
from bmtas.methods.dynamic.settings import Own
from bmtas.methods.dynamic.space import TopologySpace
from bmtas.methods.dynamic.stages import learning, only, snapshot
from bmtas.methods.relaxed import Losses, Moment, RelaxedNetwork, Shown
from bmtas.networks.fusions import weighted_sum
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit
from bmtas.networks.weights import Weights
from bmtas.optim import weight_optimiser
from bmtas.parallel import Parallel
from bmtas.schedule import ARCH
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Resource

READ_IN, LINKS, READ_OUT = "read_in", "links", "read_out"
"""The architecture parameters: A (T, n), Gamma (T, E) and B (T, n) of the paper."""
_SUMS = "sums."
_DIGITS = 4


class CentralNetwork(GraphNetwork):
    """The network with all arcs. Its parts go by the names that they have in the networks that are derived from it.

    Sums have no parameters here: their scalars are given with every pass.
    """

    def __init__(self, space: TopologySpace, tasks: Sequence[Task], weights: Weights | None) -> None:
        """Start from random weights, but for a stem that `weights` cover."""
        graph = space.architecture(space.everything()).merged
        kit = Kit(space.backbone, {task.name: task for task in tasks}, weights)
        parts = {name: op for name, op in graph.modules().items() if not op.startswith(_SUMS)}
        super().__init__(
            graph, {name: kit.build(op) for name, op in parts.items()}, [task.name for task in tasks if task.dense]
        )
        self.space = space

    def predict(self, image: Tensor, scalars: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Map (N, 3, H, W) and the scalars of all arcs (T, A) to the raw predictions of `tasks`, as `GraphNetwork` gives them."""

        def apply(node: Node, inputs: Sequence[Tensor]) -> Tensor:
            if not node.operation.startswith(_SUMS):
                return self.compute(node, inputs)
            state, task = node.weights.split(".")
            row = scalars[self.space.tasks.index(task)]
            return weighted_sum(inputs, [row[place] for place in self.space.topology.into[int(state)]])

        return self.run(image, apply, tasks)


class RelaxedTopology(RelaxedNetwork):
    """One parameter per task and arc; all tasks in one pass and one update."""

    network: CentralNetwork

    def __init__(
        self,
        network: CentralNetwork,
        own: Own,
        tasks: Sequence[Task],
        settings: SearchSettings,
        parallel: Parallel,
        table: CostTable,
    ) -> None:
        """Start every arc at a sigmoid of one half."""
        space, self.own = network.space, own
        topology, count = space.topology, len(space.tasks)
        widths = {READ_IN: len(topology.states), LINKS: topology.links, READ_OUT: len(topology.states)}
        zeros = {name: torch.zeros(count, width, requires_grad=True) for name, width in widths.items()}
        super().__init__(network, zeros, tasks, settings, parallel)
        self._expected = ExpectedCost(topology, {r: space.costs(table, r) for r in (Resource.MADDS, Resource.PARAMS)})
        self._most_links = len(topology.states) - 1 if own.squeeze_links is None else own.squeeze_links
        self.rewound = snapshot(network)
        """The weights at the end of the warm-up, which fine-tuning begins with."""

    @property
    def logits(self) -> Tensor:
        """The parameters of all arcs, (T, A), in the order of the topology's arcs."""
        return torch.cat([self.architecture[name] for name in (READ_IN, LINKS, READ_OUT)], dim=1)

    def draw(self, moment: Moment) -> list[Tensor]:
        """Return the scalars of all arcs, (T, A)."""
        return [scalars_of(self.network.space.topology, self.logits)]

    def predict(
        self, images: Tensor, drawn: Sequence[Tensor], tasks: Sequence[str], moment: Moment
    ) -> dict[str, Tensor]:
        """Run these tasks over all arcs."""
        return self.network.predict(images, drawn[0], tasks)

    def compile(self) -> None:
        """Compile each operation: the whole of them is a graph too long."""
        for module in self.network.graph.modules():
            if not module.startswith(_SUMS):
                self.network.get_submodule(module).compile(dynamic=False)

    def end_warmup(self) -> None:
        """Keep the weights to rewind to."""
        self.rewound = snapshot(self.network)

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return Adam for the architecture parameters; for the weights the settings' own, of what the phase changes."""
        if phase == ARCH:
            return super().optimiser(phase)
        learned = learning(self.network, phase, self.own.search_weights).values()
        return weight_optimiser(self.settings.optimiser, learned, self.settings.learning_rate)

    def learn_weights(self, batch: Batch, moment: Moment, optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights that the phase changes, for all tasks at once."""
        with only(self.network, learning(self.network, moment.step.phase, self.own.search_weights)):
            return super().learn_weights(batch, moment, optimiser)

    def regularisation(self, moment: Moment) -> Tensor:
        """Return the squeeze loss by its weight."""
        return self.own.squeeze_weight * squeeze_loss(self.architecture[LINKS], self._most_links)

    def expected(self) -> dict[Resource, Tensor]:
        """Return the exact expected cost in multiply-adds and parameters, if each task keeps each arc by chance."""
        return self._expected(torch.sigmoid(self.logits.double()))

    def shown(self) -> Shown:
        """Tell the sigmoids, and how many links each task keeps in expectation."""
        found = {name: torch.sigmoid(value.detach()) for name, value in self.architecture.items()}
        links = dict(zip(self.network.space.tasks, found[LINKS].sum(dim=1).tolist(), strict=True))
        record = {
            "probabilities": {
                name: [[round(p, _DIGITS) for p in row] for row in value.tolist()] for name, value in found.items()
            }
        }
        text = ", ".join(f"{task} {count:.1f}" for task, count in links.items())
        return Shown(record, {f"links expected (of {self.network.space.topology.links})": text})

    def state_dict(self) -> dict[str, Any]:
        """Return the weights to rewind to."""
        return {"rewound": self.rewound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.rewound = dict(state["rewound"])

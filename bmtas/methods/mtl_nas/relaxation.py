"""The relaxed network of MTL-NAS: all backbones with all edges, each edge's features multiplied by its gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.config import SearchSettings
from bmtas.graph import Node
from bmtas.methods.mtl_nas.losses import expected_cost, mean_entropy
from bmtas.methods.mtl_nas.price import Price
from bmtas.methods.mtl_nas.settings import Gates, Own
from bmtas.methods.mtl_nas.space import FusionSpace
from bmtas.methods.mtl_nas.stages import gate_temperature
from bmtas.methods.relaxed import Moment, RelaxedNetwork, Shown
from bmtas.networks.fusions import Fusion
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.weights import Weights
from bmtas.optim import weight_optimiser
from bmtas.parallel import Parallel
from bmtas.schedule import ARCH
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Budget, Resource

_ARCH_BETAS = (0.5, 0.999)  # the authors' code
_DIGITS = 4
"""Of the probabilities in the history, which are there to be looked at."""


class Supernet(nn.Module):
    """The network with all edges. Its parts go by the names that they have in the networks that are derived from it."""

    def __init__(self, space: FusionSpace, tasks: Sequence[Task], weights: Weights | None, own_weight: float) -> None:
        """Start the backbones from `weights` (None: random); fusions weigh the own features by `own_weight`, the others alike (Eq. 3)."""
        super().__init__()
        self.space = space
        self.whole = build_network(space.architecture([True] * len(space.edges)), tasks, weights)
        for task, node in space.targets:
            fusion = self.fusion(task, node)
            fusion.begin(own_weight, (1.0 - own_weight) / (fusion.inputs - 1))

    def fusion(self, task: str, node: str) -> Fusion:
        """Return the fusion of all features that `task` may fuse at `node`: its own, then those of its edges in order."""
        place = self.space.targets[task, node]
        found = self.whole.get_submodule(f"fusions.{node}.{1 + place.stop - place.start}.{task}")
        assert isinstance(found, Fusion)
        return found

    def forward(self, image: Tensor, gates: Tensor) -> dict[str, Tensor]:
        """Map (N, 3, H, W) and the gates of all edges (E,) to the raw predictions of all tasks, as `GraphNetwork` gives them."""

        def apply(node: Node, inputs: Sequence[Tensor]) -> Tensor:
            part = self.whole.get_submodule(node.module)
            if isinstance(part, Fusion):
                return _gated(part, inputs, gates[self._place(node.operation, node.weights)])
            return self.whole.compute(node, inputs)

        return self.whole.run(image, apply)

    def _place(self, operation: str, task: str) -> slice:
        return self.space.targets[task, operation.removeprefix("fusions.").rpartition(".")[0]]


def _gated(fusion: Fusion, inputs: Sequence[Tensor], gates: Tensor) -> Tensor:
    """Return the fusion of the inputs, all but the first multiplied by their gates.

    The convolution is linear: to multiply its weights instead of the features is the same, and takes far less memory.
    """
    scale = torch.cat([gates.new_ones(1), gates]).repeat_interleave(fusion.channels)
    weight = fusion.conv.weight * scale[None, :, None, None]
    fused: Tensor = fusion.relu(fusion.norm(F.conv2d(torch.cat(list(inputs), dim=1), weight)))
    return fused


def gates_of(logits: Tensor, kind: Gates, temperature: float, generator: torch.Generator) -> Tensor:
    """Return the gates (E,) in [0, 1], float32, from the logits of the probabilities, differentiable.

    Deterministic: the probabilities (Gao et al., Eq. 4). Stochastic: sigmoid((logit + L) / temperature), L drawn from the logistic
    distribution (binary Concrete, Eq. 6 as in the authors' code, where the paper prints log p for the logit).
    """
    if kind is Gates.DETERMINISTIC:
        return torch.sigmoid(logits).float()
    even = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return torch.sigmoid((logits + torch.logit(even)) / temperature).float()


class RelaxedFusions(RelaxedNetwork):
    """One logit per edge, by target task; all tasks in one pass and one update."""

    network: Supernet

    def __init__(
        self,
        network: Supernet,
        own: Own,
        tasks: Sequence[Task],
        settings: SearchSettings,
        parallel: Parallel,
        table: CostTable,
        budgets: Sequence[Budget],
    ) -> None:
        """Start every edge at probability one half, or below it by what the budgets ask."""
        space, self.own = network.space, own
        counts = {t: sum(edge.task == t for edge in space.edges) for t in space.tasks}
        logits = {t: torch.zeros(count, requires_grad=True) for t, count in counts.items()}
        super().__init__(network, logits, tasks, settings, parallel)
        self._costs = {
            r: (space.floor(table, r), torch.tensor(space.edge_costs(table, r), dtype=torch.float64))
            for r in (Resource.MADDS, Resource.PARAMS)
        }
        self._price = Price(budgets, self._costs)

    @property
    def logits(self) -> Tensor:
        """The logits of the probabilities of all edges, (E,) float64, in the order of the space's: what was learned less the price."""
        return self._price(torch.cat([self.architecture[task] for task in self.network.space.tasks]))

    def temperature(self, moment: Moment) -> float:
        """Return that of the method's own schedule."""
        return gate_temperature(moment.progress)

    def draw(self, moment: Moment) -> list[Tensor]:
        """Return the gates of all edges, (E,)."""
        kind = self.own.arch_relaxation if moment.step.phase == ARCH else self.own.weight_relaxation
        return [gates_of(self.logits, kind, self.temperature(moment), moment.generator)]

    def predict(
        self, images: Tensor, drawn: Sequence[Tensor], tasks: Sequence[str], moment: Moment
    ) -> dict[str, Tensor]:
        """Run all tasks at once."""
        predictions: Mapping[str, Tensor] = self.network(images, drawn[0])
        return {name: predictions[name] for name in tasks}

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return Adam as in the source for the logits; for the weights the settings' own, fusions at a rate of their own."""
        if phase == ARCH:
            return torch.optim.Adam(
                list(self.architecture.values()),
                lr=self.settings.arch_learning_rate,
                betas=_ARCH_BETAS,
                weight_decay=self.own.arch_weight_decay,
            )
        rate, space = self.settings.learning_rate, self.network.space
        fusions = [p for task, node in space.targets for p in self.network.fusion(task, node).parameters()]
        fused = {id(p) for p in fusions}
        rest = [p for p in self.network.parameters() if id(p) not in fused]
        groups = [{"params": rest, "lr": rate}, {"params": fusions, "lr": rate * self.own.fusion_rate}]
        groups = [{**group, "weight_decay": self.own.weight_decay} for group in groups]
        return weight_optimiser(self.settings.optimiser, groups, rate)

    def regularisation(self, moment: Moment) -> Tensor:
        """Return the entropy of the gates by its weight (Eq. 12 and 13)."""
        return self.own.entropy_weight * self.entropy()

    def entropy(self) -> Tensor:
        """Return the mean entropy of the edges in nats, a scalar."""
        return mean_entropy(self._by_task(self.logits))

    def _by_task(self, values: Tensor) -> list[Tensor]:
        return list(torch.split(values, [len(self.architecture[task]) for task in self.network.space.tasks]))

    def expected(self) -> dict[Resource, Tensor]:
        """Return the exact expected cost in multiply-adds and parameters."""
        probabilities = torch.sigmoid(self.logits)
        return {r: expected_cost(probabilities, floor, edges) for r, (floor, edges) in self._costs.items()}

    def shown(self) -> Shown:
        """Tell the probabilities, how many edges are more likely than not, and how sure the search is."""
        with torch.no_grad():
            logits = self.logits
            found = dict(zip(self.network.space.tasks, self._by_task(torch.sigmoid(logits)), strict=True))
            entropy, kept = float(self.entropy()), int((logits > 0).sum())
        record = {
            "probabilities": {t: [round(p, _DIGITS) for p in values.tolist()] for t, values in found.items()},
            "entropy": entropy,
        }
        texts = {
            "edges more likely than not": f"{kept} of {len(self.network.space.edges)}",
            "entropy of the gates": f"{entropy:.2f} nats",
        }
        return Shown(record, texts)


def start_from(network: Supernet, separate: GraphNetwork) -> None:
    """Copy backbones and heads from the networks of single tasks."""
    for module in separate.graph.modules():
        network.whole.get_submodule(module).load_state_dict(separate.get_submodule(module).state_dict())

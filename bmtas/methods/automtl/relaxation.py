"""The relaxed network of AutoMTL: every convolution with its branches, mixed by each task for itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bmtas.config import SearchSettings
from bmtas.graph import head_name
from bmtas.methods.automtl.losses import ExpectedCost, layer_weights, policy_regularisation
from bmtas.methods.automtl.prices import CHOICES, OWN, SHARED, SKIP
from bmtas.methods.automtl.settings import Own
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.automtl.stages import even_branches, held, policy_temperature, sampled_branches
from bmtas.methods.relaxed import Moment, RelaxedNetwork, Shown
from bmtas.networks.fusions import weighted_sum
from bmtas.networks.network import to_image_size
from bmtas.networks.operations import Kit
from bmtas.networks.traced import skip_name
from bmtas.networks.tracing import IMAGE_PLACE, Kind, Traced
from bmtas.parallel import Parallel
from bmtas.schedule import ARCH, WARMUP
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Resource

_BETAS, _WEIGHT_DECAY = (0.5, 0.999), 1e-4  # published code
_DIGITS = 4
"""Of the probabilities in the history, which are there to be looked at."""
Weighted = Sequence[tuple[int, Tensor | float]]
"""The branches of a convolution that are computed, and their weights."""


class Supermodel(nn.Module):
    """All branches of all convolutions. Glue without parameters is the same module for all tasks.

    Parameters are named `shared.convs_012` and `own.TASK.convs_012`, with the operation's name as in graphs. The shared branch has one
    normalisation, a task's own branch has its own, and so have normalisations that stand behind no convolution.
    """

    def __init__(self, space: ConvolutionSpace, kit: Kit) -> None:
        """Begin every copy of an operation from the kit's pretrained weights, or at random where it has none."""
        super().__init__()
        self.space, self._trace = space, space.trace
        self.shared, self.heads = nn.ModuleDict(), nn.ModuleDict()
        self.own = nn.ModuleDict({task: nn.ModuleDict() for task in space.tasks})
        for operation in self._trace.operations:
            free = operation.kind is Kind.NORM and operation.behind is None
            if not free:
                self.shared[key_of(operation.name)] = kit.build(operation.name)
            if operation.kind is not Kind.GLUE:
                self._add_own(kit, operation.name)
        for place, same in zip(self._trace.convs, space.identity, strict=True):
            if not same:
                self._add_own(kit, skip_name(self._trace.operations[place]))
        for task in space.tasks:
            self.heads[task] = kit.build(head_name(task))
        self._column = {place: i for i, place in enumerate(self._trace.convs)}
        self._last = {i: o.place for o in self._trace.operations for i in o.inputs}

    def _add_own(self, kit: Kit, operation: str) -> None:
        for task in self.space.tasks:
            self.task(task)[key_of(operation)] = kit.build(operation)

    def task(self, task: str) -> nn.ModuleDict:
        """Return what a task has for itself, by `key_of`."""
        own = self.own[task]
        assert isinstance(own, nn.ModuleDict)
        return own

    def forward(self, images: Tensor, weights: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Map (N, 3, H, W) and the weights of the branches (T, L, 3) to the raw predictions of `tasks`, as `GraphNetwork` gives them."""
        places = [self.space.tasks.index(task) for task in tasks]
        return self._predict(
            images,
            {t: [[(b, w[b]) for b in range(CHOICES)] for w in weights[k]] for t, k in zip(tasks, places, strict=True)},
        )

    def chosen(self, images: Tensor, choices: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return the raw predictions of all tasks where task t takes branch `choices[t][l]` alone in convolution l."""
        taken = zip(self.space.tasks, choices, strict=True)
        return self._predict(images, {t: [[(int(b), 1.0)] for b in row] for t, row in taken})

    def _predict(
        self, images: Tensor, branches: dict[str, list[list[tuple[int, Tensor | float]]]]
    ) -> dict[str, Tensor]:
        predictions = {}
        for task, mixture in branches.items():
            raw = self.heads[task](*self._encode(images, task, mixture))
            dense = self.space.kit.tasks[task].dense
            predictions[task] = to_image_size(raw, images.shape[-2:]) if dense else raw
        return predictions

    def _encode(self, images: Tensor, task: str, mixture: Sequence[Weighted]) -> list[Tensor]:
        """Return the features of the last layer and of the tap."""
        ends = (self._trace.features, self._trace.tap)
        values = {IMAGE_PLACE: images}
        for operation in self._trace.operations:
            inputs = [values[place] for place in operation.inputs]
            if operation.kind is Kind.CONV:
                value = self._mixed(operation, task, inputs[0], mixture[self._column[operation.place]])
            elif operation.behind is not None:
                value = inputs[0]  # it is part of the mixture
            elif operation.kind is Kind.NORM:
                value = self.task(task)[key_of(operation.name)](*inputs)
            else:
                value = self.shared[key_of(operation.name)](*inputs)
            values[operation.place] = value
            for place in operation.inputs:
                if self._last[place] == operation.place and place not in ends:
                    values.pop(place, None)
        return [values[place] for place in ends]

    def _mixed(self, conv: Traced, task: str, x: Tensor, branches: Weighted) -> Tensor:
        values = (self._branch(conv, task, x, branch) for branch, _ in branches)
        return weighted_sum(values, (weight for _, weight in branches))

    def _branch(self, conv: Traced, task: str, x: Tensor, branch: int) -> Tensor:
        own = self.task(task)
        if branch == SKIP:
            name = key_of(skip_name(conv))
            return own[name](x) if name in own else x
        side = self.shared if branch == SHARED else own
        result: Tensor = side[key_of(conv.name)](x)
        norm = self._trace.norm_behind.get(conv.place)
        return result if norm is None else side[key_of(self._trace.operations[norm].name)](result)


def key_of(operation: str) -> str:
    """Return an operation's name as a part of a parameter's, where a dot would begin another part."""
    return operation.replace(".", "_")


class RelaxedPolicies(RelaxedNetwork):
    """Three logits per task and convolution, by task; one update of the weights per task in turn."""

    network: Supermodel
    one_by_one = True

    def __init__(
        self,
        network: Supermodel,
        own: Own,
        tasks: Sequence[Task],
        settings: SearchSettings,
        parallel: Parallel,
        table: CostTable,
    ) -> None:
        """Start with all choices equally probable."""
        space, self.own = network.space, own
        logits = {task: torch.zeros(len(space.trace.convs), CHOICES, requires_grad=True) for task in space.tasks}
        super().__init__(network, logits, tasks, settings, parallel)
        self._forced = torch.from_numpy(space.forced)
        self._layer_weights = layer_weights(space.trace.depths)
        self._costs = {
            r: ExpectedCost(space.prices(table, r), space.wiring, len(space.tasks))
            for r in (Resource.MADDS, Resource.PARAMS)
        }

    @property
    def logits(self) -> Tensor:
        """The policies, (T, L, 3)."""
        return torch.stack(list(self.architecture.values()))

    def probabilities(self) -> Tensor:
        """Return the probability of each choice, (T, L, 3), float64, differentiable."""
        return held(torch.softmax(self.logits.double(), dim=-1), self._forced)

    def temperature(self, moment: Moment) -> float:
        """Return that of the method's own schedule."""
        return policy_temperature(
            self.settings.temperature_start, self.own.temperature_decay, self.own.temperature_decays, moment.progress
        )

    def draw(self, moment: Moment) -> list[Tensor]:
        """Return the weights of all branches, (T, L, 3): even ones in the warm-up, then a softened sample."""
        if moment.step.phase == WARMUP:
            return [held(even_branches(len(self.tasks), len(self._forced)), self._forced)]
        return [sampled_branches(self.logits, self._forced, self.temperature(moment), moment.generator)]

    def predict(
        self, images: Tensor, drawn: Sequence[Tensor], tasks: Sequence[str], moment: Moment
    ) -> dict[str, Tensor]:
        """Return the raw predictions of `tasks`."""
        predictions: dict[str, Tensor] = self.network(images, drawn[0], list(tasks))
        return predictions

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return Adam for pre-training and for the policies (published code), the settings' own for the weights beside them."""
        if phase == WARMUP:
            rate, decay = self.own.pretrain_learning_rate, _WEIGHT_DECAY
            return torch.optim.Adam(self.network.parameters(), lr=rate, betas=_BETAS, weight_decay=decay)
        if phase == ARCH:
            policies, rate = list(self.architecture.values()), self.settings.arch_learning_rate
            return torch.optim.Adam(policies, lr=rate, weight_decay=self.own.arch_weight_decay)
        return super().optimiser(phase)

    def set_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """Keep the rates: so does the published code."""

    def regularisation(self, moment: Moment) -> Tensor:
        """Return the policy regularisation of a fresh sample, times its weight."""
        samples = sampled_branches(self.logits, self._forced, self.temperature(moment), moment.generator)
        loss = policy_regularisation(samples, self._layer_weights, self.own.regularisation_scale)
        return self.own.regularisation_weight * loss

    def expected(self) -> dict[Resource, Tensor]:
        """Return the exact expected cost in multiply-adds and in parameters."""
        probabilities = self.probabilities()
        return {resource: cost(probabilities) for resource, cost in self._costs.items()}

    def shown(self) -> Shown:
        """Tell the probabilities, and what share of the choices each branch would have."""
        probabilities = self.probabilities().detach()
        shares = probabilities.mean(dim=(0, 1)).tolist()
        names = {SHARED: "shared", OWN: "own", SKIP: "skipped"}
        told = ", ".join(f"{100 * shares[branch]:.0f} % {name}" for branch, name in names.items())
        rounded = (probabilities * 10**_DIGITS).round() / 10**_DIGITS
        return Shown({"probabilities": rounded.tolist()}, {"convolutions": told})

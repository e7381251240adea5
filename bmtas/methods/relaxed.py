"""What a search needs of a method: its relaxed network, its architecture parameters, and how a batch changes either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bmtas.config import SearchSettings
from bmtas.data.batches import Batch
from bmtas.half import autocast, widened
from bmtas.losses import batch_loss, checked_finite, counted
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.parallel import Parallel
from bmtas.schedule import ARCH, Step
from bmtas.tasks import Task
from costs.units import Resource

Losses = dict[str, float]
"""The unweighted loss of each task, by name."""


@dataclass(frozen=True)
class Moment:
    """Where a search stands: its step, the share of all steps of that kind that are done, in [0, 1], and the noise of this step.

    `temperature` is the linear one of the settings; a method may have a schedule of its own.
    """

    step: Step
    progress: float
    temperature: float
    generator: torch.Generator


@dataclass(frozen=True)
class Shown:
    """What a search tells after each cycle: a record for the history, as plain JSON values, and texts for the reader."""

    record: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class Relaxed(Protocol):
    """A relaxed network. `architecture` holds its architecture parameters by name, float32 on the CPU, which require gradients."""

    architecture: dict[str, Tensor]

    @property
    def network(self) -> nn.Module:
        """All weights."""

    @property
    def fresh_optimisers(self) -> bool:
        """Whether an optimiser's state is dropped with every change of phase."""

    def prepare(self, images: Callable[[], Tensor], parallel: Parallel) -> None:
        """Settle what depends on the machine, on the first images (N, 3, H, W) of a new search, alike in all processes."""

    def compile(self) -> None:
        """Compile what is run often."""

    def begin(self, phase: str) -> None:
        """A phase begins."""

    def end_warmup(self) -> None:
        """The last step of the warm-up is done."""

    def temperature(self, moment: Moment) -> float:
        """Return the temperature of what is drawn in an architecture step."""

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return a new optimiser of what the phase changes."""

    def set_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """Set the rate of weight updates; `progress` is the share of all of them that are done, in [0, 1)."""

    def learn_weights(self, batch: Batch, moment: Moment, optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights on one batch. Raises NotFiniteError before a weight is spoiled."""

    def add_gradients(self, batch: Batch, moment: Moment) -> Losses:
        """Add the gradient of the tasks' weighted losses to the architecture parameters; weights stay. Raises NotFiniteError."""

    def regularisation(self, moment: Moment) -> Tensor:
        """Return what the method adds to the loss of the architecture parameters, a scalar; 0 where nothing."""

    def expected(self) -> dict[Resource, Tensor]:
        """Return the expected cost of the network in each resource, scalars in base units, differentiable in the parameters."""

    def shown(self) -> Shown:
        """Return what is worth knowing of the architecture parameters now."""

    def state_dict(self) -> dict[str, Any]:
        """Return what else must be known to go on, as plain values or tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`."""


class RelaxedNetwork(ABC):
    """A `Relaxed` whose gradients flow from the predictions to the architecture parameters by themselves.

    What is left to a method: `draw` and `predict`, and whatever it adds to the loss. With `one_by_one` the weights are updated
    for each task in turn, else once on the sum of the tasks' weighted losses.
    """

    fresh_optimisers = False
    one_by_one = False

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        architecture: dict[str, Tensor],
        tasks: Sequence[Task],
        settings: SearchSettings,
        parallel: Parallel,
    ) -> None:
        self.network, self.architecture = network, architecture
        self.tasks, self.settings, self.parallel = tuple(tasks), settings, parallel

    @abstractmethod
    def draw(self, moment: Moment) -> list[Tensor]:
        """Return what the architecture parameters mean in this step, differentiable: gates, mixtures, scalars, on the CPU."""

    @abstractmethod
    def predict(
        self, images: Tensor, drawn: Sequence[Tensor], tasks: Sequence[str], moment: Moment
    ) -> dict[str, Tensor]:
        """Map (N, 3, H, W) to the raw predictions of `tasks`, as `GraphNetwork` gives them. `drawn` is on the images' device."""

    @abstractmethod
    def expected(self) -> dict[Resource, Tensor]:
        """Return the expected cost in each resource, scalars in base units, differentiable in the parameters."""

    def prepare(self, images: Callable[[], Tensor], parallel: Parallel) -> None:  # noqa: B027 -- a method may have nothing to do here
        """Nothing depends on the machine."""

    def compile(self) -> None:
        """Compile the whole network."""
        self.network.compile(dynamic=False)

    def begin(self, phase: str) -> None:  # noqa: B027 -- a method may have nothing to do here
        """Change nothing."""

    def end_warmup(self) -> None:  # noqa: B027 -- a method may have nothing to do here
        """Keep nothing."""

    def temperature(self, moment: Moment) -> float:
        """Return the linear one of the settings."""
        return moment.temperature

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return Adam for the architecture parameters, the settings' own for the weights."""
        if phase == ARCH:
            return torch.optim.Adam(list(self.architecture.values()), lr=self.settings.arch_learning_rate)
        return weight_optimiser(self.settings.optimiser, self.network.parameters(), self.settings.learning_rate)

    def set_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """Follow the poly policy."""
        set_poly_rate(optimiser, progress)

    def learn_weights(self, batch: Batch, moment: Moment, optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights, task by task or for all at once. Raises NotFiniteError before a weight is spoiled."""
        parts, losses = self._parts(batch), Losses()
        for group in [[t] for t in self.tasks] if self.one_by_one else [list(self.tasks)]:
            drawn = [value.detach() for value in self.draw(moment)]
            optimiser.zero_grad(set_to_none=True)
            shares = [self._descend(part, drawn, group, moment) for part in parts]
            losses |= self._whole(group, shares)
            self.parallel.sum_gradients(self.network.parameters())
            optimiser.step()
        return losses

    def add_gradients(self, batch: Batch, moment: Moment) -> Losses:
        """Back-propagate to what was drawn, part by part, and from there to the parameters once."""
        drawn = self.draw(moment)
        leaves = [value.detach().requires_grad_() for value in drawn]
        weights = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in weights:  # their gradients would be computed for nothing
            parameter.requires_grad_(False)
        try:
            shares = [self._descend(part, leaves, list(self.tasks), moment) for part in self._parts(batch)]
        finally:
            for parameter in weights:
                parameter.requires_grad_()
        losses = self._whole(self.tasks, shares)
        pairs = [(value, leaf.grad) for value, leaf in zip(drawn, leaves, strict=True) if leaf.grad is not None]
        torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])
        return losses

    def regularisation(self, moment: Moment) -> Tensor:
        """Add nothing."""
        return torch.zeros(())

    def shown(self) -> Shown:
        """Tell nothing."""
        return Shown()

    def state_dict(self) -> dict[str, Any]:
        """Nothing else has to be known."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 -- a method may have nothing to do here
        """Nothing else has to be known."""

    def _parts(self, batch: Batch) -> list[Batch]:
        return counted(batch, self.tasks, self.parallel.total).parts(self.settings.accumulate)

    def _descend(self, batch: Batch, drawn: Sequence[Tensor], tasks: Sequence[Task], moment: Moment) -> list[Tensor]:
        """Add the gradient of the tasks' weighted losses on a part of a batch; return the losses, scalars."""
        device = self.parallel.device
        with autocast(self.settings.precision, device):
            placed = [value.to(device) for value in drawn]
            predictions = self.predict(batch.images, placed, [task.name for task in tasks], moment)
        losses = [batch_loss(task, widened(predictions[task.name]), batch) for task in tasks]
        weighted = torch.stack([task.loss_weight * loss for task, loss in zip(tasks, losses, strict=True)])
        weighted.sum().backward()  # type: ignore[no-untyped-call]
        return [loss.detach() for loss in losses]

    def _whole(self, tasks: Sequence[Task], shares: Sequence[Sequence[Tensor]]) -> Losses:
        """Return the losses of `tasks` on the whole batch from those of its parts here, [part][task]."""
        summed = torch.stack([torch.stack(list(part)) for part in shares]).sum(dim=0)
        values = self.parallel.total(summed).tolist()
        return {task.name: checked_finite(task, value) for task, value in zip(tasks, values, strict=True)}

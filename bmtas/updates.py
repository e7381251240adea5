"""How one batch changes the supergraph's weights, and what it says about the architecture: the two estimators.

`mixes` holds for each task the (L, C) weights of the candidates on its path: a softened sample, or the task's own candidates
during the warm-up.

    soft       every candidate of a layer, mixed; the supergraph is updated for each task in turn (paper, appendix A)
    sampled    the candidate of greatest weight only; tasks that drew the same so far are computed once, and all tasks
               update the weights together, which is our choice: in turn, nothing could be shared. The architecture
               parameters get the gradient of the chosen candidates' weights (Dong & Yang, GDAS, CVPR 2019)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bmtas.config import Estimator, Precision
from bmtas.data.batches import Batch
from bmtas.losses import finite_loss
from bmtas.networks.supergraph import Supergraph
from bmtas.tasks import Task

Losses = dict[str, float]
"""The unweighted loss of each task, by name."""


class Updates(Protocol):
    """What an estimator has to do."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights on one batch. Raises NotFiniteError before a weight is spoiled."""

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Add the gradient of the tasks' weighted losses to what `mixes` were computed from; weights stay as they are."""


def choose_updates(
    estimator: Estimator, supergraph: Supergraph, tasks: Sequence[Task], device: torch.device, precision: Precision
) -> Updates:
    """Return the updates of an estimator."""
    kind = SoftUpdates if estimator is Estimator.SOFT else SampledUpdates
    return kind(supergraph, tuple(tasks), device, precision)


@dataclass(frozen=True)
class _Updates:
    supergraph: Supergraph
    tasks: tuple[Task, ...]
    device: torch.device
    precision: Precision

    def _autocast(self) -> AbstractContextManager[object]:
        """Compute convolutions in bfloat16 where asked for; losses, weights and statistics stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is Precision.BF16)


class SoftUpdates(_Updates):
    """The paper's: softened samples, task by task."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights for each task in turn."""
        losses = {}
        for t, task in enumerate(self.tasks):
            loss = self._loss(batch, t, mixes[t])
            optimiser.zero_grad(set_to_none=True)
            (task.loss_weight * loss).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses[task.name] = loss.item()
        return losses

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Back-propagate task by task, so that one task's activations are in memory at a time."""
        losses = {}
        with self.supergraph.batch_statistics():
            for t, task in enumerate(self.tasks):
                loss = self._loss(batch, t, mixes[t])
                (task.loss_weight * loss).backward()  # type: ignore[no-untyped-call]
                losses[task.name] = loss.item()
        return losses

    def _loss(self, batch: Batch, task: int, mix: Tensor) -> Tensor:
        with self._autocast():
            prediction = self.supergraph(batch.images, task, mix.to(self.device))
        return finite_loss(self.tasks[task], _widened(prediction), batch)


class SampledUpdates(_Updates):
    """One candidate per task and layer."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights once, on the sum of the tasks' weighted losses."""
        with self._autocast():
            run = self.supergraph.forward_sampled(batch.images, _choices(mixes))
        losses = [
            finite_loss(task, _widened(prediction), batch)
            for task, prediction in zip(self.tasks, run.predictions, strict=True)
        ]
        total = sum((task.loss_weight * loss for task, loss in zip(self.tasks, losses, strict=True)), torch.zeros(()))
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {task.name: loss.item() for task, loss in zip(self.tasks, losses, strict=True)}

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Give each chosen weight the gradient of its gate in its own task's loss: `bmtas.networks.sampled`."""
        choices = _choices(mixes)
        losses = {}
        with self.supergraph.batch_statistics():
            with self._autocast():
                run = self.supergraph.forward_sampled(batch.images, choices)
            for t, task in enumerate(self.tasks):
                loss = finite_loss(task, _widened(run.predictions[t]), batch)
                gates = run.gate_gradients(task.loss_weight * loss, t, last=t + 1 == len(self.tasks))
                chosen = mixes[t].gather(1, choices[:, t : t + 1]).squeeze(1)
                chosen.backward(gates.to(chosen.device, chosen.dtype))  # type: ignore[no-untyped-call]
                losses[task.name] = loss.item()
        return losses


def _choices(mixes: Sequence[Tensor]) -> Tensor:
    """Return the candidate of greatest weight of each task in each layer, (L, T)."""
    return torch.stack([mix.detach().argmax(dim=1) for mix in mixes], dim=1)


def _widened(prediction: Tensor) -> Tensor:
    """Return what autocast left in half precision as float32, for the loss."""
    return prediction.float() if prediction.dtype is torch.bfloat16 else prediction

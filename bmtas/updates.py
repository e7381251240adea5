"""How one batch changes the supergraph's weights, and what it says about the architecture: the two estimators.

`mixes` holds for each task the (L, C) weights of the candidates on its path: a softened sample, or the task's own candidates
during the warm-up.

    soft       every candidate of a layer, mixed; the supergraph is updated for each task in turn (paper, appendix A)
    sampled    the candidate of greatest weight only; tasks that drew the same so far are computed once, and all tasks
               update the weights together, which is our choice: in turn, nothing could be shared. The architecture
               parameters get the straight-through gradient (`bmtas.networks.sampled`)

A batch may be computed in parts, one after the other (gradient accumulation) and by several processes; the gradients of
all parts are summed before a step is taken. Only the normalisation then differs from that of a whole batch: each of the parts
that follow each other is normalised by itself, while processes normalise together (`bmtas.networks.norms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bmtas.config import Estimator, Precision, SearchSettings
from bmtas.data.batches import Batch
from bmtas.half import autocast, widened
from bmtas.losses import batch_loss, checked_finite, counted
from bmtas.networks.sampled import SampledPass
from bmtas.networks.supergraph import Supergraph
from bmtas.parallel import Parallel
from bmtas.tasks import Task

Losses = dict[str, float]
"""The unweighted loss of each task, by name."""


class Updates(Protocol):
    """What an estimator has to do. `batch` is this process's share, with the counts of the whole batch if it is not all."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights on one batch. Raises NotFiniteError before a weight is spoiled."""

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Add this process's share of the gradient of the tasks' weighted losses to what `mixes` were computed from.

        Weights stay as they are. Raises NotFiniteError.
        """


def choose_updates(
    settings: SearchSettings, supergraph: Supergraph, tasks: Sequence[Task], parallel: Parallel
) -> Updates:
    """Return the updates of the estimator that `settings` name."""
    kind = SoftUpdates if settings.estimator is Estimator.SOFT else SampledUpdates
    return kind(supergraph, tuple(tasks), parallel, settings.precision, settings.accumulate)


@dataclass(frozen=True)
class _Updates:
    supergraph: Supergraph
    tasks: tuple[Task, ...]
    parallel: Parallel
    precision: Precision
    accumulate: int

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.precision, self.parallel.device)

    def _parts(self, batch: Batch) -> list[Batch]:
        return counted(batch, self.tasks, self.parallel.total).parts(self.accumulate)

    def _whole(self, tasks: Sequence[Task], shares: Sequence[Sequence[Tensor]]) -> Losses:
        """Return the losses of `tasks` on the whole batch from those of its parts here, [part][task]."""
        summed = torch.stack([torch.stack(list(part)).detach() for part in shares]).sum(dim=0)
        values = self.parallel.total(summed).tolist()
        return {task.name: checked_finite(task, value) for task, value in zip(tasks, values, strict=True)}

    def _step(self, optimiser: torch.optim.Optimizer) -> None:
        self.parallel.sum_gradients(self.supergraph.parameters())
        optimiser.step()


class SoftUpdates(_Updates):
    """The paper's: softened samples, task by task."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights for each task in turn."""
        parts, losses = self._parts(batch), Losses()
        for t, task in enumerate(self.tasks):
            optimiser.zero_grad(set_to_none=True)
            shares = [[self._descend(part, t, mixes[t])] for part in parts]
            losses |= self._whole([task], shares)
            self._step(optimiser)
        return losses

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Back-propagate task by task, so that one task's activations are in memory at a time."""
        leaves = [mix.detach().requires_grad_() for mix in mixes]
        with self.supergraph.batch_statistics():
            shares = [[self._descend(part, t, leaf) for t, leaf in enumerate(leaves)] for part in self._parts(batch)]
        losses = self._whole(self.tasks, shares)
        torch.autograd.backward(list(mixes), [leaf.grad for leaf in leaves])
        return losses

    def _descend(self, batch: Batch, task: int, mix: Tensor) -> Tensor:
        """Add the gradient of one task's weighted loss on a part of a batch; return the loss, a scalar."""
        with self._autocast():
            prediction = self.supergraph(batch.images, task, mix.to(self.parallel.device))
        loss = batch_loss(self.tasks[task], widened(prediction), batch)
        (self.tasks[task].loss_weight * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class SampledUpdates(_Updates):
    """One candidate per task and layer."""

    def learn_weights(self, batch: Batch, mixes: Sequence[Tensor], optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights once, on the sum of the tasks' weighted losses."""
        optimiser.zero_grad(set_to_none=True)
        losses = self._whole(self.tasks, [self._descend(part, _choices(mixes)) for part in self._parts(batch)])
        self._step(optimiser)
        return losses

    def _descend(self, batch: Batch, choices: Tensor) -> list[Tensor]:
        """Add the gradient of all tasks' weighted losses on a part of a batch; return the losses, scalars."""
        _, losses, weighted = self._pass(batch, choices)
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        return losses

    def add_gradients(self, batch: Batch, mixes: Sequence[Tensor]) -> Losses:
        """Hand the gradient by each task's mix on to its softened sample: `bmtas.networks.sampled`."""
        choices = _choices(mixes)
        with self.supergraph.batch_statistics():
            parts = [self._gradients(part, choices) for part in self._parts(batch)]
        losses = self._whole(self.tasks, [part for part, _ in parts])
        whole = torch.stack([gradients for _, gradients in parts]).sum(dim=0)
        for t, mix in enumerate(mixes):
            mix.backward(whole[:, t].to(mix.device, mix.dtype))  # type: ignore[no-untyped-call]
        return losses

    def _gradients(self, batch: Batch, choices: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return every task's loss on a part of a batch, scalars, and the gradients of the weighted ones, (L, T, C)."""
        run, losses, weighted = self._pass(batch, choices)
        with self._autocast():
            return [loss.detach() for loss in losses], self.supergraph.mix_gradients(run, weighted)

    def _pass(self, batch: Batch, choices: Tensor) -> tuple[SampledPass, list[Tensor], list[Tensor]]:
        """Return a pass of all tasks over a part of a batch, their losses, and the weighted ones, scalars."""
        with self._autocast():
            run = self.supergraph.forward_sampled(batch.images, choices)
        losses = [batch_loss(task, widened(p), batch) for task, p in zip(self.tasks, run.predictions, strict=True)]
        return run, losses, [task.loss_weight * loss for task, loss in zip(self.tasks, losses, strict=True)]


def _choices(mixes: Sequence[Tensor]) -> Tensor:
    """Return the candidate of greatest weight of each task in each layer, (L, T)."""
    return torch.stack([mix.detach().argmax(dim=1) for mix in mixes], dim=1)

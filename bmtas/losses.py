"""Task losses (paper, appendix A): predictions and labels of one task in, a scalar out.

Shapes: dense predictions (N, channels, H, W); labels as in `bmtas.tasks` with a batch dimension in front, normals with
their channels first, (N, 3, H, W). A batch without any valid label gives a loss of 0 that is still connected to the
prediction, so that a step can always be taken.

Every loss is a sum over the pixels at hand divided by a count over the whole batch. Where a batch is computed in parts (by
several processes, or one after the other), the parts' losses with the whole batch's counts add up to the whole loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.checkpoint import has_checkpoint
from bmtas.data.batches import Batch
from bmtas.data.counts import label_counts
from bmtas.errors import DivergedError
from bmtas.kinds import find_kind
from bmtas.tasks import IGNORE, Task, TaskKind


def task_loss(task: Task, prediction: Tensor, label: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the unweighted loss of `task`, a scalar; `Task.loss_weight` is applied by the caller.

    `counts` (2,) are those of the whole batch (`bmtas.data.counts.label_counts`) if this is a part of it.
    """
    counts = label_counts(task, label) if counts is None else counts
    loss = _LOSSES[task.kind] if task.own is None else find_kind(task.own.name).loss
    return loss(task, prediction, label, counts.to(prediction.device, prediction.dtype))


def batch_loss(task: Task, prediction: Tensor, batch: Batch) -> Tensor:
    """Return `task_loss` on a batch's labels, or on those of a part of a batch."""
    return task_loss(task, prediction, batch.labels[task.name], batch.counts.get(task.name))


def counted(batch: Batch, tasks: Sequence[Task], total: Callable[[Tensor], Tensor]) -> Batch:
    """Return a part of a batch with the counts of the whole one; `total` sums tensors over all who hold a part."""
    counts = total(torch.stack([label_counts(task, batch.labels[task.name]) for task in tasks]))
    return batch.with_counts({task.name: counts[t] for t, task in enumerate(tasks)})


class NotFiniteError(ArithmeticError):
    """A loss is not a finite number."""

    def __init__(self, task: Task, value: float) -> None:
        super().__init__(f"the loss of {task.name!r} is {value}")


def diverged(what: str, checkpoint: Path) -> DivergedError:
    """Return the error for the user of a run that cannot go on: what has happened, what is left and what to do."""
    exists = has_checkpoint(checkpoint)
    left = f"the last good checkpoint stands in {checkpoint}" if exists else "no checkpoint was written yet"
    return DivergedError(
        f"{what}; {left}. Begin a new run with a lower --search-learning-rate or --train-learning-rate, or "
        "with a lower loss_weight of that task in the manifest"
    )


def checked_finite(task: Task, value: float) -> float:
    """Return the loss `value` of `task`. Raises NotFiniteError."""
    if not math.isfinite(value):
        raise NotFiniteError(task, value)
    return value


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return total / count.clamp(min=1)


def _cross_entropy(ignore: int) -> Callable[[Task, Tensor, Tensor, Tensor], Tensor]:
    def loss(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        return _mean(F.cross_entropy(prediction, label.long(), ignore_index=ignore, reduction="sum"), counts[0])

    return loss


def _weighted_binary(prediction: Tensor, label: Tensor, positive_weight: Tensor | float, count: Tensor) -> Tensor:
    """Mean over valid pixels of w * CE on positives and (1 - w) * CE on negatives."""
    valid = label != IGNORE
    target = (label == 1).to(prediction.dtype)
    weight = torch.where(target > 0, positive_weight, 1.0 - positive_weight) * valid
    return _mean(F.binary_cross_entropy_with_logits(prediction[:, 0], target, weight, reduction="sum"), count)


def _balanced(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Balanced cross-entropy: positives weigh as the share of negatives in the batch, and the other way round."""
    return _weighted_binary(prediction, label, _mean(counts[1], counts[0]), counts[0])


def _edge(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    return _weighted_binary(prediction, label, task.edge_positive_weight, counts[0])


def _normals(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """L1 between unit vectors, mean over the components of valid pixels."""
    valid = (label != 0).any(dim=1, keepdim=True)
    difference = (F.normalize(prediction, dim=1) - label).abs() * valid
    return _mean(difference.sum(), counts[0] * label.shape[1])


def _l1(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    valid = torch.isfinite(label)
    return _mean(F.l1_loss(prediction[:, 0][valid], label[valid], reduction="sum"), counts[0])


_LOSSES: dict[TaskKind, Callable[[Task, Tensor, Tensor, Tensor], Tensor]] = {
    TaskKind.SEGMENTATION: _cross_entropy(IGNORE),
    TaskKind.CLASSIFICATION: _cross_entropy(-1),
    TaskKind.BINARY: _balanced,
    TaskKind.EDGE: _edge,
    TaskKind.NORMALS: _normals,
    TaskKind.DEPTH: _l1,
    TaskKind.REGRESSION: _l1,
}

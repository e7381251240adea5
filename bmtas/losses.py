"""Task losses (paper, appendix A): predictions and labels of one task in, a scalar out.

Shapes: dense predictions (N, channels, H, W); labels as in `bmtas.tasks` with a batch dimension in front, normals with
their channels first, (N, 3, H, W). A batch without any valid label gives a loss of 0 that is still connected to the
prediction, so that a step can always be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.data.batches import Batch
from bmtas.errors import DivergedError
from bmtas.tasks import IGNORE, Task, TaskKind


def task_loss(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    """Return the unweighted loss of `task`, a scalar; `Task.loss_weight` is applied by the caller."""
    return _LOSSES[task.kind](task, prediction, label)


class NotFiniteError(ArithmeticError):
    """A loss is not a finite number."""

    def __init__(self, task: Task, value: float) -> None:
        super().__init__(f"the loss of {task.name!r} is {value}")

    def explained(self, where: str, checkpoint: Path) -> DivergedError:
        """Return the error for the user, who needs to know where it happened and what is left."""
        left = (
            f"the last good checkpoint stands in {checkpoint}"
            if checkpoint.exists()
            else "no checkpoint was written yet"
        )
        return DivergedError(
            f"{where}: {self}; {left}. Begin a new run with a lower --search-learning-rate or --train-learning-rate, or "
            "with a lower loss_weight of that task in the manifest"
        )


def finite_loss(task: Task, prediction: Tensor, batch: Batch) -> Tensor:
    """Return `task_loss` on a batch's labels. Raises NotFiniteError."""
    loss = task_loss(task, prediction, batch.labels[task.name])
    if not torch.isfinite(loss):
        raise NotFiniteError(task, loss.item())
    return loss


def _nothing(prediction: Tensor) -> Tensor:
    return prediction.sum() * 0.0


def _cross_entropy(ignore: int) -> Callable[[Task, Tensor, Tensor], Tensor]:
    def loss(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
        if not (label != ignore).any():
            return _nothing(prediction)
        return F.cross_entropy(prediction, label.long(), ignore_index=ignore)

    return loss


def _weighted_binary(prediction: Tensor, label: Tensor, positive_weight: Tensor | float) -> Tensor:
    """Mean over valid pixels of w * CE on positives and (1 - w) * CE on negatives."""
    valid = label != IGNORE
    if not valid.any():
        return _nothing(prediction)
    target = (label == 1).float()
    weight = torch.where(target > 0, positive_weight, 1.0 - positive_weight) * valid
    loss = F.binary_cross_entropy_with_logits(prediction[:, 0], target, weight, reduction="sum")
    return loss / valid.sum()


def _balanced(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    """Balanced cross-entropy: positives weigh as the share of negatives in the batch, and the other way round."""
    valid = (label != IGNORE).sum().clamp(min=1)
    return _weighted_binary(prediction, label, (label == 0).sum() / valid)


def _edge(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    return _weighted_binary(prediction, label, task.edge_positive_weight)


def _normals(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    """L1 between unit vectors, mean over the components of valid pixels."""
    valid = (label != 0).any(dim=1, keepdim=True)
    if not valid.any():
        return _nothing(prediction)
    difference = (F.normalize(prediction, dim=1) - label).abs() * valid
    return difference.sum() / (valid.sum() * label.shape[1])


def _l1(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    valid = torch.isfinite(label)
    if not valid.any():
        return _nothing(prediction)
    return F.l1_loss(prediction[:, 0][valid], label[valid])


_LOSSES: dict[TaskKind, Callable[[Task, Tensor, Tensor], Tensor]] = {
    TaskKind.SEGMENTATION: _cross_entropy(IGNORE),
    TaskKind.CLASSIFICATION: _cross_entropy(-1),
    TaskKind.BINARY: _balanced,
    TaskKind.EDGE: _edge,
    TaskKind.NORMALS: _normals,
    TaskKind.DEPTH: _l1,
    TaskKind.REGRESSION: _l1,
}

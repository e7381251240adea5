"""A kind of task of one's own: disparity, stored as any regression is, but trained and scored by its relative error."""

import torch
from torch import Tensor

from bmtas.adapters import register_kind
from bmtas.tasks import Task


def relative_errors(prediction: Tensor, label: Tensor) -> Tensor:
    """Return |p - y| / y of the valid pixels, (K,): labels (N, H, W) are NaN where there is none."""
    valid = torch.isfinite(label) & (label > 0)
    return (prediction[:, 0][valid] - label[valid]).abs() / label[valid]


class AbsRel:
    """The mean relative error over all pixels of all images."""

    def __init__(self, task: Task) -> None:
        self.total, self.count = 0.0, 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take one batch, (N, 1, H, W) and (N, H, W)."""
        errors = relative_errors(prediction, label)
        self.total, self.count = self.total + float(errors.sum()), self.count + errors.numel()

    def compute(self) -> dict[str, float]:
        """Return the mean over what was taken."""
        return {"abs_rel": self.total / self.count if self.count else float("nan")}

    def close(self) -> None:
        """Nothing is held."""


def loss(task: Task, prediction: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Return the mean relative error: a sum over these pixels by the count of the whole batch."""
    return relative_errors(prediction, label).sum() / counts[0].clamp(min=1)


register_kind("disparity", like="regression", metric="abs_rel", higher_is_better=False, loss=loss, score=AbsRel)

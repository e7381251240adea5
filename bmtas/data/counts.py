"""What a loss divides by, counted over the labels of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from bmtas.tasks import IGNORE, Task, TaskKind


def has_label(task: Task, label: Tensor) -> bool:
    """Say whether anything in a batch's labels is valid; shapes as in `label_counts`."""
    return bool(label_counts(task, label)[0] > 0)


def label_counts(task: Task, label: Tensor) -> Tensor:
    """Return (valid, negative) pixels of a batch's labels, or images for classification; (2,) float64 on their device.

    `label` is (N, H, W), (N, 3, H, W) for normals, (N,) for classification. Only binary kinds have negatives; for
    the others the second number is 0.
    """
    negative = torch.zeros((), dtype=torch.float64, device=label.device)
    if task.kind is TaskKind.NORMALS:
        valid = (label != 0).any(dim=1)
    elif task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        valid = torch.isfinite(label)
    elif task.kind is TaskKind.CLASSIFICATION:
        valid = label != -1
    else:
        valid = label != IGNORE
        if task.kind in (TaskKind.BINARY, TaskKind.EDGE):
            negative = (label == 0).sum().double()
    return torch.stack([valid.sum().double(), negative])

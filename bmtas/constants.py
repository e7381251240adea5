"""What the best constant prediction would come to: the mark that a task must beat before it can be said to have learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bmtas.data.batches import Batch
from bmtas.data.counts import has_label
from bmtas.losses import task_loss
from bmtas.tasks import Task, TaskKind

_STEPS, _RATE = 150, 0.1
_PIXELS = 2048
"""About so many of each image are looked at, spread evenly: a constant is as good on them."""


def everywhere(task: Task, constant: Tensor, label: Tensor) -> Tensor:
    """Return the raw prediction `constant` (channels,) for every position of a label batch: (N, channels[, H, W])."""
    if not task.dense:
        return constant.expand(len(label), -1)
    return constant[None, :, None, None].expand(len(label), -1, *label.shape[-2:])


def constant_losses(batches: Sequence[Batch], tasks: Sequence[Task]) -> dict[str, float]:
    """Return for each task the mean loss over `batches` of the prediction, the same everywhere, that makes it least.

    The constant is found by gradient descent on those very batches. NaN for a task without any label in them.
    """
    return {task.name: _constant_loss([batch.labels[task.name] for batch in batches], task) for task in tasks}


def _constant_loss(labels: Sequence[Tensor], task: Task) -> float:
    if task.dense:
        height, width = labels[0].shape[-2:]
        stride = max(1, int((height * width / _PIXELS) ** 0.5))
        labels = [label[..., ::stride, ::stride] for label in labels]
    labels = [label for label in labels if has_label(task, label)]
    if not labels:
        return float("nan")
    constant = _start(labels, task).requires_grad_()
    optimiser = torch.optim.Adam([constant], lr=_RATE)
    best = float("inf")
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = torch.stack([task_loss(task, everywhere(task, constant, label), label) for label in labels]).mean()
        best = min(best, float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return best


def _start(labels: Sequence[Tensor], task: Task) -> Tensor:
    """Return where the descent begins, (channels,): near the middle of the labels where they have no bounds."""
    dtype = torch.get_default_dtype()
    if task.kind is TaskKind.NORMALS:
        return torch.stack([label.movedim(1, -1).reshape(-1, 3).mean(dim=0) for label in labels]).mean(dim=0).to(dtype)
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        known = torch.cat([label[torch.isfinite(label)] for label in labels])
        return known.median().reshape(1).to(dtype)
    return torch.zeros(task.channels, dtype=dtype)

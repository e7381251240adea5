"""A kind of a user's own, tried on a made-up batch before a run begins: what is wrong with it shall not be met when training ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bmtas.errors import UsageError
from bmtas.kinds import Kind, find_kind
from bmtas.losses import task_loss
from bmtas.tasks import Task, TaskKind, invalid_value

_SIDE = 16


def try_kinds(tasks: Sequence[Task]) -> None:
    """Take a step of the loss and a batch of the metric of every task whose kind a plugin has brought. Raises UsageError for what breaks."""
    for task in tasks:
        if task.own is not None:
            _try(task, find_kind(task.own.name))


def _try(task: Task, kind: Kind) -> None:
    shape = (2, task.channels, _SIDE, _SIDE) if task.dense else (2, task.channels)
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(shape, generator=generator).requires_grad_()
    label = _label(task, generator)
    try:
        loss = task_loss(task, prediction, label)
        gradient = _gradient(loss, prediction)
        metric = kind.score(task)
        metric.update(prediction.detach(), label)
        found = metric.compute()
        metric.close()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(kind, f"on a batch of two images it fails with {type(error).__name__}: {error}") from error
    if gradient is None or not isinstance(loss, Tensor) or loss.dim():
        raise _broken(
            kind, f"its loss gave {_told(loss)}; it must be a tensor of one number that depends on the prediction"
        )
    if not (math.isfinite(float(loss.detach())) and torch.isfinite(gradient).all()):
        raise _broken(
            kind,
            f"its loss is {float(loss.detach()):g} on labels of which a quarter is invalid; leave invalid ones out",
        )
    if not isinstance(found, dict) or kind.metric not in found:
        raise _broken(
            kind,
            f"its score gave {found!r}, but compute() must give a dict with {kind.metric!r}, the metric that it is registered with",
        )
    if any(type(value) not in (float, int) for value in found.values()):
        raise _broken(kind, f"its score gave {found!r}; each value must be a plain number: float(...)")


def _gradient(loss: object, prediction: Tensor) -> Tensor | None:
    """Return the gradient of `loss` at `prediction`, None where it does not depend on it."""
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        return None
    return torch.autograd.grad(loss, prediction, allow_unused=True)[0]


def _label(task: Task, generator: torch.Generator) -> Tensor:
    """Return labels of two images in the form of `bmtas.tasks`; of dense ones the upper quarter is invalid."""
    label = _valid(task, generator)
    if task.dense:
        label[..., : _SIDE // 4, :] = invalid_value(task.kind)
    return label


def _valid(task: Task, generator: torch.Generator) -> Tensor:
    if task.kind is TaskKind.CLASSIFICATION:
        return torch.randint(task.channels, (2,), generator=generator)
    if task.kind is TaskKind.NORMALS:
        vectors = torch.randn(2, 3, _SIDE, _SIDE, generator=generator)
        return vectors / vectors.norm(dim=1, keepdim=True)
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return torch.rand(2, _SIDE, _SIDE, generator=generator) + 0.5
    classes = task.channels if task.has_classes else 2
    return torch.randint(classes, (2, _SIDE, _SIDE), generator=generator, dtype=torch.uint8)


def _told(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def _broken(kind: Kind, what: str) -> UsageError:
    return UsageError(f"the kind {kind.name!r}: {what}. Mend the plugin that brings it")

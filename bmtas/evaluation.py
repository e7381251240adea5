"""Evaluation: each task's metric on the validation split, beside the best constant prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.constants import everywhere
from bmtas.data.batches import Batch
from bmtas.metrics import build_metric
from bmtas.tasks import IGNORE, Task, TaskKind

_NORMALS_PER_BATCH = 1000  # vectors of a batch from which the best constant direction is computed
_LOGIT = 20.0  # sigmoid(20) is 1 to 9 digits, above every threshold


def evaluate_network(
    network: nn.Module, batches: Iterable[Batch], tasks: tuple[Task, ...]
) -> dict[str, dict[str, float]]:
    """Return each task's metrics by name for `network`, which maps images to raw predictions per task.

    The network is put into evaluation mode and left in the mode in which it came.
    """
    metrics = {task.name: build_metric(task) for task in tasks}
    was_training = network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                predictions = network(batch.images.to(device))
                for name, metric in metrics.items():
                    metric.update(predictions[name].cpu(), batch.labels[name])
        return {name: metric.compute() for name, metric in metrics.items()}
    finally:
        network.train(was_training)
        for metric in metrics.values():
            metric.close()


def evaluate_constants(batches: Callable[[], Iterable[Batch]], tasks: tuple[Task, ...]) -> dict[str, float]:
    """Return the metric that Delta_m compares, by task, of the best prediction that is the same for every pixel of every image.

    The constant is fitted to the very labels that it is measured on. `batches` is called twice: to fit and to measure.
    """
    statistics = {task.name: _Statistics(task) for task in tasks}
    for batch in batches():
        for name, collected in statistics.items():
            collected.update(batch.labels[name])
    candidates = {task.name: statistics[task.name].candidates() for task in tasks}
    metrics = {task.name: [build_metric(task) for _ in candidates[task.name]] for task in tasks}
    try:
        for batch in batches():
            for task in tasks:
                label = batch.labels[task.name]
                for constant, metric in zip(candidates[task.name], metrics[task.name], strict=True):
                    metric.update(everywhere(task, constant, label), label)
        values = {task.name: [m.compute()[task.metric] for m in metrics[task.name]] for task in tasks}
    finally:
        for metric in (m for of_task in metrics.values() for m in of_task):
            metric.close()
    return {task.name: (max if task.higher_is_better else min)(values[task.name]) for task in tasks}


class _Statistics:
    """What of a task's labels decides the best constant, collected batch by batch."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts = torch.zeros(max(task.channels, 1), dtype=torch.long)
        self._sum = 0.0
        self._pixels = 0
        self._vectors: list[Tensor] = []

    def update(self, label: Tensor) -> None:
        """Take the labels of one batch."""
        if self._task.has_classes:
            ignore = IGNORE if self._task.kind is TaskKind.SEGMENTATION else -1
            self._counts += torch.bincount(label[label != ignore].long(), minlength=self._task.channels)
        elif self._task.kind is TaskKind.NORMALS:
            vectors = label.movedim(1, -1)[(label != 0).any(dim=1)]
            self._vectors.append(vectors[:: max(1, len(vectors) // _NORMALS_PER_BATCH)].double())
        elif self._task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
            finite = label[torch.isfinite(label)].double()
            self._sum += float(finite.sum())
            self._pixels += len(finite)

    def candidates(self) -> list[Tensor]:
        """Return constants (channels,) among which the best one is."""
        if self._task.has_classes:
            # One class everywhere: its IoU is its share, all others are 0, so the most frequent class is best.
            return [F.one_hot(self._counts.argmax(), self._task.channels).float()]
        if self._task.kind in (TaskKind.BINARY, TaskKind.EDGE):
            return [torch.tensor([_LOGIT]), torch.tensor([-_LOGIT])]
        if self._task.kind is TaskKind.NORMALS:
            return _central_directions(torch.cat(self._vectors) if self._vectors else torch.zeros(0, 3).double())
        # The mean minimises the root mean square error.
        return [torch.tensor([self._sum / max(self._pixels, 1)])]


def _central_directions(vectors: Tensor, starts: int = 64, refined: int = 4) -> list[Tensor]:
    """Return directions among which the one with the least mean angle to `vectors` (n, 3) is.

    The mean angle has several minima where the vectors spread over the sphere, so the descent starts from the best of
    the mean, the axes and some of the vectors themselves.
    """
    if not len(vectors):
        return [torch.tensor([0.0, 0.0, -1.0])]
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    mean = F.normalize(vectors.mean(dim=0, keepdim=True), dim=1)
    candidates = torch.cat([mean, axes, vectors[:: max(1, len(vectors) // starts)][:starts]])
    angles = torch.stack([_mean_angle(vectors, candidate) for candidate in candidates])
    best = angles.argsort()[:refined]
    return [_spherical_median(vectors, candidates[i]).float() for i in best]


def _mean_angle(vectors: Tensor, centre: Tensor) -> Tensor:
    return torch.acos((vectors @ centre).clamp(-1, 1)).mean()


def _spherical_median(vectors: Tensor, centre: Tensor, iterations: int = 30) -> Tensor:
    """Return the direction near `centre` with the least mean angle to `vectors`, by Weiszfeld's iteration on the sphere."""
    best, best_angle = centre, _mean_angle(vectors, centre)
    for _ in range(iterations):
        cosine = (vectors @ centre).clamp(-1, 1)
        angle = torch.acos(cosine)
        # Unit steps along the sphere towards each vector: their sum is the gradient of the sum of angles.
        tangent = vectors - cosine[:, None] * centre
        direction = tangent / tangent.norm(dim=1, keepdim=True).clamp(min=1e-9)
        weight = 1.0 / angle.clamp(min=1e-3)
        centre = F.normalize(centre + direction.sum(dim=0) / weight.sum(), dim=0)
        reached = _mean_angle(vectors, centre)
        if reached < best_angle:
            best, best_angle = centre, reached
    return best


def metrics_json(
    tasks: tuple[Task, ...],
    values: Mapping[str, Mapping[str, float]],
    constants: Mapping[str, float],
    *,
    size: tuple[int, int],
    images: int,
) -> dict[str, Any]:
    """Return the content of `metrics.json`: per task the metric's name, value, direction and the best constant's value.

    `more` holds the task's other metrics by name.
    """
    return {
        "schema_version": 1,
        "split": "val",
        "size": list(size),
        "images": images,
        "tasks": {
            task.name: {
                "metric": task.metric,
                "higher_is_better": task.higher_is_better,
                "value": _finite(values[task.name][task.metric]),
                "best_constant": _finite(constants[task.name]),
                "more": {name: _finite(value) for name, value in values[task.name].items() if name != task.metric},
            }
            for task in tasks
        },
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN; a metric without any valid label is null."""
    return value if math.isfinite(value) else None

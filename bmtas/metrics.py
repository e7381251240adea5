"""Metrics per task kind: torchmetrics where it has them, a few lines where it has not.

A metric takes raw predictions (N, channels, H, W) and labels batch by batch and gives one number in the unit that its
name says. Which one belongs to which kind stands in `bmtas.tasks.METRICS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.tasks import IGNORE, Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision

_SALIENCY_THRESHOLDS = torch.arange(0.2, 0.901, 0.05)


class Metric(Protocol):
    """Collects predictions and labels, then gives one number."""

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take one batch."""

    def compute(self) -> float:
        """Return the metric over all batches. NaN if no label was valid."""


def build_metric(task: Task) -> Metric:
    """Return a fresh metric for `task`."""
    kinds: dict[TaskKind, Callable[[Task], Metric]] = {
        TaskKind.SEGMENTATION: MeanIoU,
        TaskKind.BINARY: MaxIoU,
        TaskKind.EDGE: MaxF,
        TaskKind.NORMALS: MeanAngle,
        TaskKind.DEPTH: RootMeanSquare,
        TaskKind.REGRESSION: RootMeanSquare,
        TaskKind.CLASSIFICATION: Accuracy,
    }
    return kinds[task.kind](task)


def _torchmetrics() -> Any:
    import_torchvision()  # torchmetrics imports torchvision where it is installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchmetrics.classification as classification
    return classification


class MeanIoU:
    """Mean intersection over union; classes that neither occur nor are predicted do not count (nan-mean)."""

    def __init__(self, task: Task) -> None:
        self._metric = _torchmetrics().MulticlassJaccardIndex(len(task.classes), average="macro", ignore_index=IGNORE)
        self._seen = False

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, classes, H, W) and ids (N, H, W)."""
        self._seen |= bool((label != IGNORE).any())
        self._metric.update(prediction.argmax(dim=1), label.long())

    def compute(self) -> float:
        """Return the mean IoU in [0, 1]."""
        return float(self._metric.compute()) if self._seen else float("nan")


class MaxIoU:
    """IoU per image, mean over images, best of the thresholds 0.2, 0.25, ..., 0.9 (as the paper's saliency metric)."""

    def __init__(self, task: Task) -> None:
        self._sum = torch.zeros(len(_SALIENCY_THRESHOLDS), dtype=torch.float64)
        self._images = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, 1, H, W) and labels (N, H, W)."""
        probability = prediction[:, 0].sigmoid()
        for p, y in zip(probability, label, strict=True):
            valid = y != IGNORE
            if not valid.any():
                continue
            predicted = p[valid][None] > _SALIENCY_THRESHOLDS[:, None]
            actual = y[valid][None] == 1
            union = (predicted | actual).sum(dim=1)
            both = (predicted & actual).sum(dim=1)
            # An image without foreground in which none is predicted is answered rightly.
            self._sum += torch.where(union == 0, 1.0, both / union.clamp(min=1))
            self._images += 1

    def compute(self) -> float:
        """Return the best mean IoU in [0, 1]."""
        return float(self._sum.max() / self._images) if self._images else float("nan")


class MaxF:
    """F-measure of pixels at the best of 99 thresholds, counts pooled over images, no distance tolerance.

    torchmetrics' binned curve walks through the thresholds one by one for images of this size, which took most of the
    time of an evaluation; two histograms hold the same counts.
    """

    def __init__(self, task: Task) -> None:
        self._thresholds = torch.linspace(0.01, 0.99, 99)
        # Pixels by how many of the thresholds they reach, all of them and the positive ones.
        self._reached = torch.zeros(2, len(self._thresholds) + 1, dtype=torch.long)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, 1, H, W) and labels (N, H, W)."""
        valid = label != IGNORE
        reached = torch.bucketize(prediction[:, 0].sigmoid()[valid], self._thresholds, right=True)
        for row, chosen in enumerate((reached, reached[label[valid] == 1])):
            self._reached[row] += torch.bincount(chosen, minlength=self._reached.shape[1])

    def compute(self) -> float:
        """Return the best F-measure in [0, 1]; 0 where nothing right was ever predicted."""
        total, positives = self._reached.sum(dim=1).tolist()
        if not total:
            return float("nan")
        # At threshold k those are predicted that reach more than k thresholds.
        predicted, right = self._reached.flip(1).cumsum(1).flip(1)[:, 1:].double()
        return float((2 * right / (predicted + positives).clamp(min=1)).max())


class MeanAngle:
    """Mean angle between predicted and labelled normals over all valid pixels, in degrees."""

    def __init__(self, task: Task) -> None:
        self._sum = 0.0
        self._pixels = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take raw vectors (N, 3, H, W), which need not have length 1, and labels (N, 3, H, W)."""
        valid = (label != 0).any(dim=1)
        cosine = (F.normalize(prediction.double(), dim=1) * label.double()).sum(dim=1)[valid]
        self._sum += float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).sum())
        self._pixels += int(valid.sum())

    def compute(self) -> float:
        """Return the mean angle in degrees."""
        return self._sum / self._pixels if self._pixels else float("nan")


class RootMeanSquare:
    """Root mean square error over all valid pixels of the set, in the label's unit (metres for depth)."""

    def __init__(self, task: Task) -> None:
        self._sum = 0.0
        self._pixels = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take predictions (N, 1, H, W) and labels (N, H, W)."""
        valid = torch.isfinite(label)
        self._sum += float(((prediction[:, 0] - label)[valid].double() ** 2).sum())
        self._pixels += int(valid.sum())

    def compute(self) -> float:
        """Return the error in the label's unit."""
        return (self._sum / self._pixels) ** 0.5 if self._pixels else float("nan")


class Accuracy:
    """Share of images whose most probable class is right."""

    def __init__(self, task: Task) -> None:
        self._right = 0
        self._images = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, classes) and labels (N,), -1 for none."""
        valid = label != -1
        self._right += int((prediction.argmax(dim=1) == label)[valid].sum())
        self._images += int(valid.sum())

    def compute(self) -> float:
        """Return the share in [0, 1]."""
        return self._right / self._images if self._images else float("nan")

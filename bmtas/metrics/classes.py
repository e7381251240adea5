"""Metrics of tasks that tell classes apart, of pixels and of whole images."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from bmtas.metrics.protocol import NAN, InMemory
from bmtas.tasks import IGNORE, Task
from bmtas.torchvision_remedy import import_torchvision

_TOP = 5


@functools.cache
def _torchmetrics() -> Any:
    import_torchvision()  # torchmetrics imports torchvision where it is installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchmetrics.classification")


class Segmentation(InMemory):
    """Mean intersection over union of one confusion matrix over all valid pixels, and pixel accuracy.

    Publications treat classes that are absent differently. `miou`, the default, leaves out those that neither occur nor are
    predicted (as BMTAS does); `miou_labelled` all that do not occur; `miou_all` counts those that neither occur nor are
    predicted as 0; `miou_hit` leaves out every class of which no pixel was found, which flatters (as AutoMTL and AdaShare do).
    """

    def __init__(self, task: Task) -> None:
        self._matrix = _torchmetrics().MulticlassConfusionMatrix(len(task.classes), ignore_index=IGNORE)
        self._seen = False

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, classes, H, W) and ids (N, H, W)."""
        valid = label != IGNORE
        if valid.any():
            self._seen = True
            self._matrix.update(prediction.argmax(dim=1)[valid], label[valid].long())

    def compute(self) -> dict[str, float]:
        """Return shares in [0, 1]."""
        if not self._seen:
            return dict.fromkeys(("miou", "miou_labelled", "miou_all", "miou_hit", "pixel_accuracy"), NAN)
        matrix = self._matrix.compute().double()
        hit, labelled, predicted = matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)
        union = labelled + predicted - hit
        iou = hit / union.clamp(min=1)
        return {
            "miou": float(iou[union > 0].mean()),
            "miou_labelled": float(iou[labelled > 0].mean()),
            "miou_all": float(iou.mean()),
            "miou_hit": float(iou[hit > 0].mean()) if (hit > 0).any() else 0.0,
            "pixel_accuracy": float(hit.sum() / matrix.sum()),
        }


class Classification(InMemory):
    """Share of images whose class is the most probable one, and among the five most probable ones."""

    def __init__(self, task: Task) -> None:
        self._top = min(_TOP, len(task.classes))
        self._right = torch.zeros(2, dtype=torch.long)
        self._images = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, classes) and labels (N,), -1 for none."""
        valid = label != -1
        best = prediction[valid].topk(self._top, dim=1).indices == label[valid][:, None]
        self._right += torch.stack([best[:, 0].sum(), best.any(dim=1).sum()])
        self._images += int(valid.sum())

    def compute(self) -> dict[str, float]:
        """Return shares in [0, 1]; with five classes or fewer `top5` is 1."""
        first, among = self._right.tolist()
        if not self._images:
            return {"top1": NAN, "top5": NAN}
        return {"top1": first / self._images, "top5": among / self._images}

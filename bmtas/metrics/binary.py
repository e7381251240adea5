"""Metrics of saliency and other masks."""

from __future__ import annotations

import torch
from torch import Tensor

from bmtas.metrics.protocol import NAN, InMemory
from bmtas.tasks import IGNORE, Task

_THRESHOLDS = torch.arange(0.2, 0.901, 0.05)
_LEVELS = 255
_BETA_SQUARED = 0.3  # Achanta et al., "Frequency-tuned salient region detection", CVPR 2009: precision weighs more


class Saliency(InMemory):
    """IoU per image, mean over images, best of the thresholds 0.2, 0.25, ..., 0.9 (the paper's metric); and max-F.

    `max_f` is the best F-measure with beta^2 = 0.3 over 255 thresholds of the mean precision and mean recall of the images
    that have a foreground. Where nothing is predicted, precision is 0.
    """

    def __init__(self, task: Task) -> None:
        self._iou = torch.zeros(len(_THRESHOLDS), dtype=torch.float64)
        self._images = 0
        self._precision = torch.zeros(_LEVELS, dtype=torch.float64)
        self._recall = torch.zeros(_LEVELS, dtype=torch.float64)
        self._with_foreground = 0

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, 1, H, W) and labels (N, H, W)."""
        probability = prediction[:, 0].sigmoid()
        for p, y in zip(probability, label, strict=True):
            valid = y != IGNORE
            if valid.any():
                self._see(p[valid], y[valid] == 1)

    def _see(self, probability: Tensor, actual: Tensor) -> None:
        """Take the valid pixels of one image, (n,)."""
        predicted = probability[None] > _THRESHOLDS[:, None]
        union = (predicted | actual).sum(dim=1)
        both = (predicted & actual).sum(dim=1)
        # An image without foreground in which none is predicted is answered rightly.
        self._iou += torch.where(union == 0, 1.0, both / union.clamp(min=1))
        self._images += 1
        if actual.any():
            # At threshold k/255 those are predicted whose 255ths, rounded, reach k.
            level = (probability * _LEVELS).round().long()
            counts = torch.stack([torch.bincount(v, minlength=_LEVELS + 1) for v in (level, level[actual])])
            reached, right = counts.flip(1).cumsum(1).flip(1)[:, 1:].double()
            self._precision += right / reached.clamp(min=1)
            self._recall += right / actual.sum()
            self._with_foreground += 1

    def compute(self) -> dict[str, float]:
        """Return both in [0, 1]."""
        iou = float(self._iou.max() / self._images) if self._images else NAN
        return {"max_iou": iou, "max_f": self._max_f() if self._with_foreground else NAN}

    def _max_f(self) -> float:
        precision, recall = self._precision / self._with_foreground, self._recall / self._with_foreground
        below = _BETA_SQUARED * precision + recall
        f = (1 + _BETA_SQUARED) * precision * recall / torch.where(below > 0, below, 1.0)
        return float(f.max())

"""Metrics of normals, depth and other measures, over all valid pixels of the set unless the name says otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.metrics.protocol import NAN, InMemory
from bmtas.tasks import Task

_BINS_PER_DEGREE = 100
_SHARES = {"within_11_25_deg": 11.25, "within_22_5_deg": 22.5, "within_30_deg": 30.0}
_DELTAS = {"delta_1": 1.25, "delta_2": 1.25**2, "delta_3": 1.25**3}


class Normals(InMemory):
    """Angle between predicted and labelled normals: mean, median (to 0.01 degrees), and shares below 11.25, 22.5, 30 degrees."""

    def __init__(self, task: Task) -> None:
        self._sum = 0.0
        self._pixels = 0
        self._below = dict.fromkeys(_SHARES, 0)
        self._histogram = torch.zeros(180 * _BINS_PER_DEGREE, dtype=torch.long)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take raw vectors (N, 3, H, W), which need not have length 1, and labels (N, 3, H, W)."""
        valid = (label != 0).any(dim=1)
        # Labels, too: a length that is 1 in single precision only turns an angle of 0 into up to 0.03 degrees.
        cosine = (F.normalize(prediction.double(), dim=1) * F.normalize(label.double(), dim=1)).sum(dim=1)[valid]
        angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        self._sum += float(angle.sum())
        self._pixels += len(angle)
        for name, limit in _SHARES.items():
            self._below[name] += int((angle < limit).sum())
        bins = (angle * _BINS_PER_DEGREE).long().clamp(max=len(self._histogram) - 1)
        self._histogram += torch.bincount(bins, minlength=len(self._histogram))

    def compute(self) -> dict[str, float]:
        """Return angles in degrees and shares in [0, 1]."""
        if not self._pixels:
            return dict.fromkeys(("mean_angle_deg", "median_angle_deg", *_SHARES), NAN)
        reached = self._histogram.cumsum(0)
        # The lower of the two in the middle of an even number; the middle of its bin.
        median = int(torch.searchsorted(reached, (self._pixels + 1) // 2)) + 0.5
        shares = {name: below / self._pixels for name, below in self._below.items()}
        return {"mean_angle_deg": self._sum / self._pixels, "median_angle_deg": median / _BINS_PER_DEGREE, **shares}


class _Errors(InMemory):
    """Sums over all valid pixels of a set."""

    def __init__(self, task: Task) -> None:
        self._sums: dict[str, float] = {}
        self._pixels = 0

    def _add(self, **errors: Tensor) -> None:
        for name, values in errors.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.double().sum())

    def _mean(self, name: str) -> float:
        return self._sums[name] / self._pixels if self._pixels else NAN


class Depth(_Errors):
    """Root mean square error over all pixels of the set and per image, mean absolute and relative error, delta thresholds.

    `delta_k` is the share of pixels with max(prediction / label, label / prediction) below 1.25^k (Eigen et al., NeurIPS
    2014); a prediction of 0 or less is within none.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._per_image: list[float] = []

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take predictions (N, 1, H, W) and labels (N, H, W), both in metres."""
        for p, y in zip(prediction[:, 0].double(), label.double(), strict=True):
            valid = torch.isfinite(y)
            if not valid.any():
                continue
            p, y = p[valid], y[valid]
            error = (p - y).abs()
            self._pixels += len(y)
            self._per_image.append(float((error**2).mean().sqrt()))
            ratio = torch.where(p > 0, torch.maximum(p / y, y / p), torch.inf)
            deltas = {name: ratio < limit for name, limit in _DELTAS.items()}
            self._add(square=error**2, absolute=error, relative=error / y, **deltas)

    def compute(self) -> dict[str, float]:
        """Return errors in metres or as shares of the label."""
        names = ("rmse_m", "rmse_per_image_m", "mean_abs_m", "mean_rel", *_DELTAS)
        if not self._pixels:
            return dict.fromkeys(names, NAN)
        return {
            "rmse_m": self._mean("square") ** 0.5,
            "rmse_per_image_m": sum(self._per_image) / len(self._per_image),
            "mean_abs_m": self._mean("absolute"),
            "mean_rel": self._mean("relative"),
            **{name: self._mean(name) for name in _DELTAS},
        }


class Regression(_Errors):
    """Root mean square and mean absolute error over all valid pixels of the set, in the label's unit."""

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take predictions (N, 1, H, W) and labels (N, H, W)."""
        valid = torch.isfinite(label)
        error = (prediction[:, 0] - label)[valid].double().abs()
        self._pixels += len(error)
        self._add(square=error**2, absolute=error)

    def compute(self) -> dict[str, float]:
        """Return errors in the label's unit."""
        if not self._pixels:
            return {"rmse": NAN, "mean_abs": NAN}
        return {"rmse": self._mean("square") ** 0.5, "mean_abs": self._mean("absolute")}

"""Metrics of edges: odsF with a distance tolerance, as publications report it, and the F-measure of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from bmtas.edges import EdgeCounter, best_f
from bmtas.metrics.protocol import NAN
from bmtas.tasks import IGNORE, Task


class Edges:
    """`ods_f`: `bmtas.edges`, within the task's own tolerance; `max_f`: F of pixels at the best of 99 thresholds, no tolerance.

    torchmetrics' binned curve walks through the thresholds one by one for images of this size, which took most of the time of
    an evaluation; two histograms hold the same counts.
    """

    def __init__(self, task: Task) -> None:
        self._counter = EdgeCounter(task.edge_tolerance)
        self._thresholds = torch.linspace(0.01, 0.99, 99)
        # Pixels by how many of the thresholds they reach, all of them and the positive ones.
        self._reached = torch.zeros(2, len(self._thresholds) + 1, dtype=torch.long)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take logits (N, 1, H, W) and labels (N, H, W)."""
        probability, valid = prediction[:, 0].sigmoid(), label != IGNORE
        for p, y in zip(probability, label, strict=True):
            self._counter.add(p.numpy(), y.numpy())
        reached = torch.bucketize(probability[valid], self._thresholds, right=True)
        for row, chosen in enumerate((reached, reached[label[valid] == 1])):
            self._reached[row] += torch.bincount(chosen, minlength=self._reached.shape[1])

    def compute(self) -> dict[str, float]:
        """Return both in [0, 1], and the threshold of odsF; 0 where nothing right was ever predicted."""
        f, threshold = best_f(self._counter.counts())
        return {"ods_f": f, "max_f": self._max_f(), "ods_threshold": threshold}

    def _max_f(self) -> float:
        total, positives = self._reached.sum(dim=1).tolist()
        if not total:
            return NAN
        # At threshold k those are predicted that reach more than k thresholds.
        predicted, right = self._reached.flip(1).cumsum(1).flip(1)[:, 1:].double()
        return float((2 * right / (predicted + positives).clamp(min=1)).max())

    def close(self) -> None:
        """Let go of the processes that count."""
        self._counter.close()

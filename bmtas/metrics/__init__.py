"""Metrics per task kind: torchmetrics where it has them, a few lines where it has not. docs/metrics.md defines each.

A metric takes raw predictions (N, channels, H, W), or (N, channels), and labels batch by batch, and gives several numbers by
name, in the unit that the name says. The one that Delta_m compares stands in `bmtas.tasks.METRICS`.
"""

from __future__ import annotations

from bmtas.kinds import Metric
from bmtas.metrics.protocol import build_metric

__all__ = ["Metric", "build_metric"]

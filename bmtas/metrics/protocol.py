"""What every metric does, and which one belongs to which kind of task."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from torch import Tensor

from bmtas.tasks import Task, TaskKind

NAN = float("nan")

_HOMES = {
    TaskKind.SEGMENTATION: ("classes", "Segmentation"),
    TaskKind.CLASSIFICATION: ("classes", "Classification"),
    TaskKind.BINARY: ("binary", "Saliency"),
    TaskKind.EDGE: ("edge", "Edges"),
    TaskKind.NORMALS: ("geometry", "Normals"),
    TaskKind.DEPTH: ("geometry", "Depth"),
    TaskKind.REGRESSION: ("geometry", "Regression"),
}


class Metric(Protocol):
    """Collects predictions and labels, then gives numbers by name."""

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take one batch, on the CPU."""

    def compute(self) -> dict[str, float]:
        """Return the metrics over all batches, the one that Delta_m compares first. NaN where no label was valid."""

    def close(self) -> None:
        """Let go of what is held beside memory."""


class InMemory:
    """What metrics have in common that hold nothing beside memory."""

    def close(self) -> None:
        """Do nothing."""


def build_metric(task: Task) -> Metric:
    """Return a fresh metric for `task`."""
    module, name = _HOMES[task.kind]
    return cast("Metric", getattr(importlib.import_module(f"bmtas.metrics.{module}"), name)(task))

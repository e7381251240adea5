"""Which metric belongs to which kind of task."""

from __future__ import annotations

import importlib
from typing import cast

from bmtas.kinds import Metric, find_kind
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


class InMemory:
    """What metrics have in common that hold nothing beside memory."""

    def close(self) -> None:
        """Do nothing."""


def build_metric(task: Task) -> Metric:
    """Return a fresh metric for `task`. Raises UsageError if it is of a kind whose plugin is not loaded."""
    if task.own is not None:
        return find_kind(task.own.name).score(task)
    module, name = _HOMES[task.kind]
    return cast("Metric", getattr(importlib.import_module(f"bmtas.metrics.{module}"), name)(task))

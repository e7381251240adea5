"""What the tests of this folder share: all numbers of a metric over given batches, and small predictions and labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bmtas.metrics import build_metric
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """Return a function (kind, classes) that gives a task, which has the classes if its kind has any."""

    def make(kind: TaskKind, classes: int = 3, **options: Any) -> Task:
        has_classes = kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION)
        names = tuple(f"c{i}" for i in range(classes)) if has_classes else ()
        return Task(name="t", kind=kind, classes=names, **options)

    return make


@pytest.fixture(scope="session")
def measure(make_task: Callable[..., Task]) -> Callable[..., dict[str, float]]:
    """Return a function (kind, batches) that gives the numbers of a fresh metric; options are those of the task."""

    def run(kind: TaskKind, *batches: tuple[Tensor, Tensor], **options: Any) -> dict[str, float]:
        metric = build_metric(make_task(kind, **options))
        for prediction, label in batches:
            metric.update(prediction, label)
        found = metric.compute()
        metric.close()
        return found

    return run


@pytest.fixture(scope="session")
def torchmetrics() -> ModuleType:
    """Return the package, which imports torchvision where it is installed."""
    import_torchvision()
    return importlib.import_module("torchmetrics")


@pytest.fixture(scope="session")
def mask() -> Callable[..., Tensor]:
    """Return a function (values) that gives labels (1, 1, n)."""
    return lambda *values: torch.tensor(values, dtype=torch.uint8)[None, None]


@pytest.fixture(scope="session")
def logits() -> Callable[..., Tensor]:
    """Return a function (probabilities) that gives logits (1, 1, 1, n)."""
    return lambda *probabilities: torch.logit(torch.tensor(probabilities))[None, None, None]


@pytest.fixture(scope="session")
def random_labels() -> Callable[[int, int, tuple[int, ...]], npt.NDArray[np.uint8]]:
    """Return a function (seed, classes, shape) that gives ids, a fifth of them 255."""

    def draw(seed: int, classes: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        label = rng.integers(0, classes, shape).astype(np.uint8)
        label[rng.random(shape) < 0.2] = 255
        return label

    return draw

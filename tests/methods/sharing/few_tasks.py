"""A few tasks, what networks of them are made from, and images for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit
from bmtas.tasks import Task, TaskKind

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("a", "b", "c")),
    Task(name="normals", kind=TaskKind.NORMALS),
)
SIZE = (64, 64)


def kit_of(backbone: str, tasks: Sequence[Task]) -> Kit:
    return Kit(get_backbone(backbone), {task.name: task for task in tasks})


def image(seed: int = 0, size: tuple[int, int] = SIZE, count: int = 2) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def settled(network: GraphNetwork, size: tuple[int, int] = SIZE) -> GraphNetwork:
    """Let normalisations take the statistics of images, so that folding them is no matter of ones and zeros."""
    with torch.no_grad():
        for seed in range(10):
            network.train()(image(seed, size))
    return network.eval()

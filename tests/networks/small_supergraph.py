"""A supergraph of five layers and two tasks, mixes of its candidates, and what its tests ask of it."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.networks.backbone import Parts, get_backbone
from bmtas.networks.supergraph import Supergraph
from bmtas.tasks import Task, TaskKind

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c")),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
)
LAYERS, CANDIDATES = 5, 2
MOBILENET = get_backbone("mobilenet_v2")


def first_layers() -> Parts:
    parts = MOBILENET.build()
    return Parts(parts.stem, parts.layers[:LAYERS], parts.keys)


SHORT = replace(MOBILENET, build=first_layers, layers=LAYERS, channels=32, stride=8)
"""The first five layers of MobileNetV2: the last two have 32 channels at stride 8."""


def image(images: int = 1) -> Tensor:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_mix(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(LAYERS, CANDIDATES, generator=generator), dim=1)


def one_hot(seed: int = 0) -> Tensor:
    choice = torch.randint(0, CANDIDATES, (LAYERS,), generator=torch.Generator().manual_seed(seed))
    assert 0 < int(choice.sum()) < LAYERS  # both candidates occur
    return F.one_hot(choice, CANDIDATES).float()


def by_hand(supergraph: Supergraph, x: Tensor, task: int, mix: Tensor) -> Tensor:
    """Run one task's path: the sum of all candidates with an entry above 0."""
    x = supergraph.stem(x)
    tap = x
    for index, candidates in enumerate(supergraph.layers):
        total = torch.zeros(())
        for j in range(CANDIDATES):
            if mix[index, j] > 0:
                total = total + mix[index, j] * candidates[j](x)
        x = total
        tap = x if index == 2 else tap
    prediction: Tensor = supergraph.heads[TASKS[task].name](x, tap)
    return F.interpolate(prediction, (32, 32), mode="bilinear") if task == 0 else prediction


def calls(supergraph: Supergraph) -> list[tuple[int, int]]:
    """Return a list that (layer, candidate) is added to whenever a candidate is run."""
    made: list[tuple[int, int]] = []
    for index, candidates in enumerate(supergraph.layers):
        for j, candidate in enumerate(candidates):
            candidate.register_forward_hook(lambda *_, at=(index, j): made.append(at))
    return made


def norms(supergraph: Supergraph) -> list[nn.BatchNorm2d]:
    return [module for module in supergraph.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics(supergraph: Supergraph) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in supergraph.named_buffers()}

"""Small networks to export, each once: a tree of tasks of all kinds on the backbone `tiny`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task, TaskKind
from export.interface import Interface
from export.sessions.protocol import Array
from tests.export import tensorrt_stand_in as stand_in
from tests.export.tensorrt_networks import write_network

SIZE = (32, 48)
EVERY_KIND = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("floor", "box", "ball")),
    Task(name="saliency", kind=TaskKind.BINARY),
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("indoors", "outdoors")),
)
_NAMES = tuple(task.name for task in EVERY_KIND)
_TREE = BranchedArchitecture(
    backbone="tiny",
    tasks=_NAMES,
    groupings=(
        (_NAMES,),
        (_NAMES,),
        (_NAMES[:2], _NAMES[2:]),
        (_NAMES[:2], _NAMES[2:4], _NAMES[4:]),
        (_NAMES[:1], _NAMES[1:2], _NAMES[2:4], _NAMES[4:]),
        (_NAMES[:1], _NAMES[1:2], _NAMES[2:4], _NAMES[4:]),
    ),
)


def settled(network: GraphNetwork) -> GraphNetwork:
    """Let normalisations take the statistics of images, so that folding them is no matter of ones and zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(4, 3, *SIZE, generator=generator) * 2 - 1)
    return network.eval()


@pytest.fixture(scope="session")
def tree() -> Architecture:
    """Five tasks of five kinds that part step by step."""
    return _TREE


@pytest.fixture(scope="session")
def every_kind() -> tuple[Task, ...]:
    """The tasks of the tree, in output order."""
    return EVERY_KIND


@pytest.fixture(scope="session")
def tiny_network() -> GraphNetwork:
    """The tree with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return settled(build_network(_TREE, EVERY_KIND))


@pytest.fixture(scope="session")
def exported(tiny_network: GraphNetwork) -> Callable[..., Any]:
    """Return a function (interface) that gives the tree's ModelProto, made once per interface."""
    from export.onnx_file import master_model

    made: dict[Interface, Any] = {}

    def model(interface: Interface | None = None) -> Any:
        wanted = interface or Interface()
        if wanted not in made:
            made[wanted] = master_model(
                tiny_network, architecture=_TREE, tasks=EVERY_KIND, size=SIZE, costs={"madds": 7.0}, interface=wanted
            )
        return made[wanted]

    return model


@pytest.fixture(scope="session")
def camera() -> Array:
    """One image (H, W, 3) uint8."""
    return np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[stand_in.Cudart]:
    """CUDA, as long as the test runs, and TensorRT beside it; the timing caches are the test's own."""
    with stand_in.installed(monkeypatch, tmp_path / "cache") as here:
        yield here


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_network(path)
    return path

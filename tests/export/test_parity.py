"""The proof of an export catches a file that computes something else."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from bmtas.architecture import Architecture
from bmtas.errors import ParityError
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task, TaskKind
from export.onnx_file import write_onnx
from export.parity import compare, require_parity
from export.runtime import OnnxSession

TASKS = (Task(name="depth", kind=TaskKind.DEPTH), Task(name="edge", kind=TaskKind.EDGE))
SHARED = Architecture.shared("mobilenet_v2", ("depth", "edge"), 18)


@pytest.fixture(scope="module")
def network() -> GraphNetwork:
    torch.manual_seed(0)
    return build_network(SHARED, TASKS).eval()


@pytest.fixture(scope="module")
def exported(network: GraphNetwork, tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    write_onnx(network, path, architecture=SHARED, tasks=TASKS, size=(32, 32), costs={})
    return OnnxSession(path)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 32, 32, generator=generator) * 2 - 1 for _ in range(2)]


def changed(network: GraphNetwork, part: str, by: float) -> GraphNetwork:
    """A copy of `network` with `by` added to the last parameter of `part`."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        list(other.get_submodule(part).parameters())[-1].add_(by)
    return other


def test_the_file_of_the_same_network_passes(
    network: GraphNetwork, exported: OnnxSession, images: list[torch.Tensor]
) -> None:
    report = compare(network, exported, images, 1e-4)
    require_parity(report)
    assert report["images"] == 2
    worst = {"depth": 0.0, "edge": 0.0}
    for image in images:
        actual = exported(image[None].numpy())
        with torch.inference_mode():
            for task, expected in network(image[None]).items():
                worst[task] = max(worst[task], float(np.abs(actual[task] - expected.double().numpy()).max()))
    assert {t: e["max_abs_difference"] for t, e in report["tasks"].items()} == pytest.approx(worst, rel=1e-12)


def test_the_file_of_another_network_is_refused_and_the_task_named(
    network: GraphNetwork, exported: OnnxSession, images: list[torch.Tensor]
) -> None:
    report = compare(changed(network, "heads.edge", 0.01), exported, images, 1e-4)
    assert report["tasks"]["depth"]["passed"]
    assert not report["tasks"]["edge"]["passed"]
    with pytest.raises(ParityError, match=r"edge differs by 0\.01") as caught:
        require_parity(report)
    assert caught.value.exit_code == 5
    assert "depth" not in str(caught.value)


def test_outputs_that_are_no_numbers_are_refused(
    network: GraphNetwork, exported: OnnxSession, images: list[torch.Tensor]
) -> None:
    broken = [image.clone() for image in images]
    broken[1][0, 0, 0] = float("nan")  # reaches every output, of PyTorch and of the file alike
    report = compare(network, exported, broken, 1e9)
    assert report["tasks"]["edge"]["not_finite"] > 0
    with pytest.raises(ParityError, match="not finite"):
        require_parity(report)


def test_no_image_is_no_proof(network: GraphNetwork, exported: OnnxSession) -> None:
    with pytest.raises(ParityError, match="no image"):
        require_parity(compare(network, exported, [], 1e-4))


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    from bmtas.errors import UsageError

    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"model\.onnx cannot be loaded"):
        OnnxSession(path)
    with pytest.raises(UsageError, match=r"bmtas export"):
        OnnxSession(tmp_path / "absent.onnx")

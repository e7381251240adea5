"""Engines from a network, on this machine, over a stand-in for TensorRT: what fails takes nothing else down, what was built stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import Architecture
from bmtas.data.source import open_dataset
from bmtas.networks.network import GraphNetwork
from bmtas.progress import Silent
from bmtas.tasks import Task
from export.check import check
from export.engines import deliver_engines
from export.exporting import Delivery, Exporting
from export.formats import find_format
from export.interface import Interface
from export.predict import open_artefact
from export.request import ExportRequest
from export.subject import Subject
from export.tensorrt.on_device import build_kit
from export.tensorrt.options import EngineOptions
from tests.export import tensorrt_stand_in as stand_in

TENSORRT = find_format("tensorrt")


def exporting(
    folder: Path, network: GraphNetwork, tree: Architecture, tasks: tuple[Task, ...], **asked: Any
) -> Exporting:
    interface = Interface("uint8")
    subject = Subject(network, tree, tasks, tree, tasks, (32, 48), {"madds": 7.0}, open_dataset("scenes"), interface)
    folder.mkdir(exist_ok=True)
    (folder / "weights.pt").write_bytes(b"weights")
    engine = EngineOptions(timing_cache=False)
    request = ExportRequest(formats=(TENSORRT,), interface=interface, images=2, samples=5, engine=engine, **asked)
    return Exporting(subject, folder, request, Silent())


@pytest.fixture
def delivered(
    cudart: stand_in.Cudart,
    tmp_path: Path,
    tiny_network: GraphNetwork,
    tree: Architecture,
    every_kind: tuple[Task, ...],
) -> Any:
    def deliver(**asked: Any) -> Delivery:
        export = exporting(tmp_path / "found", tiny_network, tree, every_kind, **asked)
        export.make_base()
        deliver_engines(export, TENSORRT)
        return export.delivery

    return deliver


def test_engines_are_built_proved_and_stay_usable_when_they_are_built_anew(delivered: Any, tmp_path: Path) -> None:
    delivery = delivered(precisions=("fp32", "fp16"))
    kit = tmp_path / "found/model.uint8.fp32+fp16.tensorrt"
    assert [a.path for a in delivery.artefacts] == [kit / "model.engine", kit / "model.fp16.engine"]
    assert delivery.failures == []
    for artefact in delivery.artefacts:
        checked = check(artefact.path)
        assert checked.proof is not None
        assert checked.proof["passed"]
        assert checked.metadata["precision"] == artefact.precision
    build_kit(kit, Silent())  # after an upgrade of TensorRT, say
    assert check(kit / "model.fp16.engine").metadata["outputs"] == "logits"
    assert open_artefact(kit / "model.engine").outputs == ["semseg", "saliency", "normals", "depth", "scene"]


def test_a_precision_that_fails_here_leaves_the_others(delivered: Any, tmp_path: Path) -> None:
    delivery = delivered(precisions=("fp32", "fp16"), tolerances={"fp16:depth": 0.0})
    assert [a.path.name for a in delivery.artefacts] == ["model.engine"]
    assert [error.exit_code for error in delivery.failures] == [5]
    assert "depth differs" in str(delivery.failures[0])


@pytest.mark.slow
def test_a_build_that_fails_leaves_the_engines_that_were_there(
    delivered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(precisions=("fp32",))
    kit = tmp_path / "found/model.uint8.fp32.tensorrt"
    before = {path.name: path.read_bytes() for path in kit.iterdir()}
    # A GPU that computes nothing: the parity gate refuses the engine.
    monkeypatch.setattr(stand_in.Context, "execute_async_v3", lambda *_: True)
    with pytest.raises(Exception, match="differs") as caught:
        delivered(precisions=("fp32",))
    assert caught.value.exit_code == 5
    assert {path.name: path.read_bytes() for path in kit.iterdir()} == before

"""What an exported network takes and gives, in ONNX Runtime, OpenVINO and the PyTorch program, against the network itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BuildError, UsageError
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import TASK_SETS, Task
from export.check import program_metadata
from export.interface import Interface, parse_dynamic, tasks_of
from export.metadata import describe, read_metadata, set_metadata
from export.onnx_file import OPSET, master_model
from export.openvino_file import write_openvino
from export.program import ProgramSession, write_program
from export.sessions.onnx import OnnxSession
from export.sessions.openvino import OpenVinoSession

NAMES = ["semseg", "saliency", "normals", "depth", "scene"]
ALL = [
    Interface(),
    Interface("uint8", "predictions"),
    Interface("uint8", "logits", ("batch",)),
    Interface("float32", "predictions", ("batch", "size")),
]


def raw(network: GraphNetwork, camera: np.ndarray) -> dict[str, np.ndarray]:
    """What PyTorch gives for a camera image, by the rule that the README states: RGB, pixels / 127.5 - 1."""
    with torch.inference_mode():
        image = torch.from_numpy(camera.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None]
        return {task: value.numpy() for task, value in network(image).items()}


def wanted(network: GraphNetwork, camera: np.ndarray, interface: Interface) -> dict[str, np.ndarray]:
    values = raw(network, camera)
    if interface.outputs == "logits":
        return values
    length = np.linalg.norm(values["normals"], axis=1, keepdims=True)
    return {
        "semseg": values["semseg"].argmax(1).astype(np.int32),
        "saliency": 1 / (1 + np.exp(-values["saliency"])),
        "normals": values["normals"] / length,
        "depth": values["depth"],
        "scene": values["scene"].argmax(1).astype(np.int32),
    }


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected) == NAMES
    for task, value in expected.items():
        assert found[task].dtype == value.dtype, task
        np.testing.assert_allclose(found[task], value, atol=2e-5, err_msg=task)


@pytest.mark.parametrize("interface", [*ALL[:3], pytest.param(ALL[3], marks=pytest.mark.slow)], ids=str)
def test_the_file_computes_what_the_network_computes(
    interface: Interface, exported: Callable[..., Any], tiny_network: GraphNetwork, camera: np.ndarray
) -> None:
    model = exported(interface)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = (
        camera[None]
        if interface.input_type == "uint8"
        else camera.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
    )
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": feed}), strict=True))
    assert_equal(found, wanted(tiny_network, camera, interface))
    np.testing.assert_allclose(interface.feed(camera), feed, atol=2e-7)


@pytest.mark.slow
def test_free_dimensions_take_other_batches_and_sizes(exported: Callable[..., Any], tiny_network: GraphNetwork) -> None:
    session = OnnxSession(exported(ALL[3]).SerializeToString())
    assert session.image_spec.shape == ("batch", 3, "height", "width")
    other = np.random.default_rng(0).uniform(-1, 1, (3, 3, 64, 40)).astype(np.float32)
    with torch.inference_mode():
        expected = tiny_network(torch.from_numpy(other))
    found = session(other)
    np.testing.assert_allclose(found["depth"], expected["depth"].numpy(), atol=2e-5)
    assert found["semseg"].shape == (3, 64, 40)
    with pytest.raises(UsageError, match="not static"):
        session.image_spec.noise()


def test_a_static_file_has_constant_shapes_no_normalisation_and_the_opset_asked_for(
    exported: Callable[..., Any],
) -> None:
    model = exported()
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "image": [1, 3, 32, 48],
        "semseg": [1, 3, 32, 48],
        "saliency": [1, 1, 32, 48],
        "normals": [1, 3, 32, 48],
        "depth": [1, 1, 32, 48],
        "scene": [1, 2],
    }
    operators = {node.op_type for node in model.graph.node}
    assert operators.isdisjoint({"BatchNormalization", "Shape", "Identity", "If", "Loop", "Constant"})
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version <= 10


def test_metadata_tell_all_that_a_device_needs(exported: Callable[..., Any]) -> None:
    model = exported(Interface("uint8", "predictions"))
    told = read_metadata({p.key: p.value for p in model.metadata_props}, "x")
    assert told["input"] == {
        "name": "image",
        "size": [32, 48],
        "shape": [1, 32, 48, 3],
        "dtype": "uint8",
        "layout": "NHWC",
        "colour": "RGB",
        "range": "0..255",
        "scale": 1.0,
        "offset": 0.0,
    }
    assert told["tasks"][0] == {
        "name": "semseg",
        "kind": "segmentation",
        "classes": ["floor", "box", "ball"],
        "to_prediction": "none",
    }
    assert told["outputs"] == "predictions"
    assert told["costs"] == {"madds": 7.0}
    assert told["precision"] == "fp32"
    assert told["opset"] == {"ai.onnx": OPSET}
    assert Architecture.from_json(told["architecture"]).tasks == tuple(NAMES)
    assert [t.name for t in tasks_of(told)] == NAMES
    floats = read_metadata({p.key: p.value for p in exported().metadata_props}, "x")
    assert [t["to_prediction"] for t in floats["tasks"]] == [
        "argmax over channels",
        "sigmoid",
        "divide by the length over channels",
        "none, metres",
        "argmax over channels",
    ]


def test_metadata_of_a_newer_version_or_damaged_are_refused() -> None:
    with pytest.raises(UsageError, match="schema 3"):
        read_metadata({"bmtas.schema_version": "3"}, "model.onnx")
    with pytest.raises(UsageError, match="damaged"):
        read_metadata({"bmtas.tasks": "[{"}, "model.onnx")
    with pytest.raises(UsageError, match="name no tasks"):
        tasks_of({})


@pytest.mark.parametrize("interface", [ALL[0], ALL[1]], ids=str)
def test_openvino_computes_the_same_and_keeps_the_metadata(
    interface: Interface, exported: Callable[..., Any], tiny_network: GraphNetwork, camera: np.ndarray, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported(interface))
    set_metadata(model, {"note": "é"})
    write_openvino(model, tmp_path)
    session = OpenVinoSession(tmp_path)
    assert_equal(session(interface.feed(camera)), wanted(tiny_network, camera, interface))
    metadata = session.metadata()
    assert metadata["note"] == "é"
    assert (metadata["precision"], metadata["outputs"]) == ("fp32", interface.outputs)
    assert set(session.executed) == {"f32"}
    assert session.image_spec.shape == interface.input_shape((32, 48))
    assert session.image_spec.dtype == interface.input_type


def test_openvino_reads_the_onnx_file_with_its_metadata(exported: Callable[..., Any], camera: np.ndarray) -> None:
    content = exported().SerializeToString()
    session = OpenVinoSession(content)
    assert [t["name"] for t in session.metadata()["tasks"]] == NAMES
    assert session.outputs == NAMES


def test_openvino_says_when_it_runs_another_precision(exported: Callable[..., Any]) -> None:
    # A network without 8-bit nodes asked to be one: whatever the machine, not one convolution runs in 8 bits.
    with pytest.raises(BuildError, match="int8 was asked of OpenVINO"):
        OpenVinoSession(exported().SerializeToString(), "int8")


def test_openvino_without_its_weights_is_refused(exported: Callable[..., Any], tmp_path: Path) -> None:
    write_openvino(exported(), tmp_path)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(UsageError, match=r"model\.bin"):
        OpenVinoSession(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        OpenVinoSession(tmp_path / "other.xml")
    (tmp_path / "model.xml").write_text("<net", encoding="utf-8")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read"):
        OpenVinoSession(tmp_path)


@pytest.mark.parametrize("interface", [ALL[1], pytest.param(ALL[3], marks=pytest.mark.slow)], ids=str)
def test_the_pytorch_program_computes_the_same(
    interface: Interface,
    tiny_network: GraphNetwork,
    tree: Architecture,
    every_kind: tuple[Task, ...],
    camera: np.ndarray,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.pt2"
    metadata = describe(tree, every_kind, (32, 48), {}, interface)
    write_program(tiny_network, path, tasks=every_kind, size=(32, 48), interface=interface, metadata=metadata)
    session = ProgramSession(path)
    assert_equal(session(interface.feed(camera)), wanted(tiny_network, camera, interface))
    assert session.metadata() == program_metadata(path) == json.loads(json.dumps(metadata))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match="damaged"):
        program_metadata(path)


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    from bmtas.networks.network import build_network

    tasks = TASK_SETS["nyud-v2"][1:2]
    architecture = BranchedArchitecture.shared("tiny", ("depth",), 6)
    network = build_network(architecture, tasks).eval()
    with torch.no_grad():
        dict(network.named_parameters())["heads.depth.predict.weight"][0, 1] = float("nan")
    with pytest.raises(BuildError, match=r"heads\.depth\.predict\.weight has 1 of \d+ values"):
        master_model(network, architecture=architecture, tasks=tasks, size=(32, 32), costs={}, interface=Interface())


def test_dynamic_is_read_from_the_command_line() -> None:
    assert parse_dynamic(None) == ()
    assert parse_dynamic("size, batch") == ("batch", "size")
    with pytest.raises(UsageError, match="did you mean 'batch'"):
        parse_dynamic("bach")

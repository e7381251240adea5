"""Files and their proofs: names, hashes, and what is refused when something was changed, lost or cut short."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from bmtas.errors import UsageError
from export.artefacts import digest, read_proofs, record, require_proof
from export.check import check
from export.formats import FORMATS, artefact_stem, find_format, help_text, parse_formats, parse_precisions
from export.interface import Interface
from export.lint import lint
from export.sessions.onnx import OnnxSession


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"network")
    record(path, {"passed": True})
    assert require_proof(path)["sha256"] == hashlib.sha256(b"network").hexdigest() == digest(path)
    path.write_bytes(b"netw0rk")
    with pytest.raises(UsageError, match="not the file that was proved"):
        require_proof(path)


def test_a_folder_is_known_by_all_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model.openvino"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.xml").write_bytes(b"a")
    (folder / "deep" / "model.bin").write_bytes(b"b")
    a, b = (hashlib.sha256(c).hexdigest() for c in (b"a", b"b"))
    assert digest(folder) == hashlib.sha256(f"{b} deep/model.bin\n{a} model.xml".encode()).hexdigest()
    record(folder, {})
    (folder / "deep" / "model.bin").rename(folder / "model.bin")
    with pytest.raises(UsageError, match="not the file"):
        require_proof(folder)


def test_proofs_of_files_that_are_gone_go_too_and_the_others_stay(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        (tmp_path / name).write_bytes(name.encode())
        record(tmp_path / name, {"passed": True, "name": name})
    (tmp_path / "b.onnx").unlink()
    record(tmp_path / "a.onnx", {"name": "anew"})
    assert {name: proof["name"] for name, proof in read_proofs(tmp_path).items()} == {
        "c.onnx": "c.onnx",
        "a.onnx": "anew",
    }
    with pytest.raises(UsageError, match=r"nothing of other\.onnx"):
        require_proof(tmp_path / "other.onnx")
    assert read_proofs(tmp_path / "nowhere") == {}


def test_names_tell_what_differs_from_the_default() -> None:
    assert artefact_stem(None, Interface(), "fp32") == "model"
    assert (
        artefact_stem(["semseg", "depth"], Interface("uint8", "predictions"), "fp16")
        == "model.semseg+depth.predictions.uint8.fp16"
    )
    assert (
        artefact_stem(None, Interface(dynamic=("batch", "size")), "fp32", merged=True)
        == "model.dynamic-batch.dynamic-size.merged"
    )


def test_formats_and_precisions_are_read_from_the_table() -> None:
    assert [f.name for f in parse_formats("onnx, trt,engine,ov")] == ["onnx", "tensorrt", "openvino"]
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        find_format("tensort")
    assert parse_precisions("fp16,fp32,fp16", [find_format("onnx")]) == ["fp16", "fp32"]
    with pytest.raises(UsageError, match="pt2 has no fp16"):
        parse_precisions("fp16", [find_format("onnx"), find_format("pt2")])
    with pytest.raises(UsageError, match="unknown precision 'half'"):
        parse_precisions("half", [])
    assert all(f.name in help_text() for f in FORMATS)


def test_the_lint_finds_nothing_in_what_we_export(exported: Callable[..., Any]) -> None:
    assert lint(exported()) == []
    assert [f.text for f in lint(exported(Interface(dynamic=("batch",)))) if "free dimensions" in f.text]


def broken(exported: Callable[..., Any], how: str) -> Any:
    model = onnx.ModelProto()
    model.CopyFrom(exported())
    graph = model.graph
    resize = next(node for node in graph.node if node.op_type == "Resize")
    if how == "opset":
        model.opset_import[0].version = 22
    elif how == "domain":
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    elif how == "ir":
        model.ir_version = 11
    elif how == "resize":
        next(a for a in resize.attribute if a.name == "coordinate_transformation_mode").s = b"tf_crop_and_resize"
    elif how == "weights":
        values = onnx.numpy_helper.to_array(graph.initializer[0]).copy()
        values.flat[:3] = float("nan")
        graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, graph.initializer[0].name))
    elif how == "external":
        graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    elif how == "shape":
        graph.node.append(onnx.helper.make_node("Shape", ["image"], ["s"], name="stem/Shape"))
    return model


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("opset", "opset 22"),
        ("domain", "com.microsoft"),
        ("ir", "IR version 11"),
        ("resize", "tf_crop_and_resize"),
        ("weights", "3 of its"),
        ("external", "another file"),
        ("shape", "depend on data"),
    ],
)
def test_the_lint_finds_what_breaks_runtimes(exported: Callable[..., Any], how: str, text: str) -> None:
    found = [f for f in lint(broken(exported, how)) if f.fatal]
    assert len(found) == 1
    assert text in found[0].text


def test_a_file_cut_short_is_refused_before_a_runtime_sees_it(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content = exported().SerializeToString()
    path.write_bytes(content)
    record(path, {"precision": "fp32", "tasks": {}, "images": 1})
    assert check(path).metadata["precision"] == "fp32"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="not the file that was proved"):
        check(path)
    (tmp_path / "parity.json").unlink()
    with pytest.raises(UsageError, match="cannot be loaded by ONNX Runtime"):
        check(path)


def test_a_file_whose_external_data_are_missing_is_refused(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(exported())
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    OnnxSession(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match=r"weights\.bin"):
        OnnxSession(path)


def test_what_bmtas_does_not_write_is_refused_by_name(tmp_path: Path) -> None:
    other = tmp_path / "model.tflite"
    other.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"\.tflite is no format"):
        check(other)
    with pytest.raises(UsageError, match="does not exist"):
        check(tmp_path / "absent.onnx")


def test_proofs_are_plain_json_with_a_schema(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    record(tmp_path / "model.onnx", {"passed": True})
    content = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    assert set(content["artefacts"]["model.onnx"]) == {"sha256", "date", "passed"}

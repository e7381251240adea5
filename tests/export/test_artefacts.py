"""Files and their proofs: names, hashes, and what is refused when something was changed, lost or cut short."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from bmtas.errors import EnvironmentProblem, UsageError
from export.artefacts import artefact_at, digest, read_proofs, record, require_proof, require_unchanged
from export.check import check
from export.formats import FORMATS, artefact_stem, find_format, help_text, parse_formats, parse_precisions
from export.interface import Interface
from export.lint import lint
from export.openvino_file import write_openvino
from export.sessions.onnx import OnnxSession

PROOF = {"precision": "fp32", "tasks": {}, "images": 1}
ROOT = Path(__file__).resolve().parents[2]


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


def test_the_docs_have_the_table_of_formats() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row for row in rows if len(row) == 4}
    for known in FORMATS:
        _, written, precisions, proved = table[known.name]
        assert known.suffix in written
        assert precisions == ", ".join(known.precisions)
        assert proved == known.proved_by


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
    record(path, PROOF)
    assert check(path).metadata["precision"] == "fp32"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="not the file that was proved"):
        check(path)
    (tmp_path / "parity.json").unlink()
    with pytest.raises(UsageError, match="cut short"):
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


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    record(tmp_path / "model.onnx", {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (math.inf, 2)}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    content = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"), parse_constant=refuse)
    proof = content["artefacts"]["model.onnx"]
    assert (proof["a"], proof["b"], proof["c"]) == (None, [1.5, None], {"d": [None, 2]})


_RECORDS = """
import sys
from pathlib import Path
from export.artefacts import record

folder, worker = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for i in range(15):
    path = folder / f"{worker}.{i}.onnx"
    path.write_bytes(path.name.encode())
    record(path, {"by": worker})
"""


def test_exports_at_the_same_time_lose_no_proof(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    linked = tmp_path / "linked"
    linked.symlink_to(run)  # one folder, whatever it is called
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _RECORDS, str(folder), name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder, name in ((run, "a"), (linked, "b"), (run, "c"))
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:  # all begin together
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=60)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    names = {f"{worker}.{i}.onnx" for worker in "abc" for i in range(15)}
    assert set(read_proofs(run)) == names
    assert {path.name for path in run.iterdir()} == {*names, "parity.json"}  # the lock lies elsewhere


def test_a_lock_that_cannot_be_had_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "model.onnx").write_bytes(b"x")
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentProblem, match="BMTAS_CACHE"):
        record(tmp_path / "model.onnx", {})
    assert not (tmp_path / "parity.json").exists()


@pytest.mark.parametrize(
    ("artefacts", "message"),
    [
        ([], "`artefacts` is no object"),
        ("x", "`artefacts` is no object"),
        ({"model.onnx": 3}, "'model.onnx' is no object"),
        ({"model.onnx": {}, "other": None}, "'other' is no object"),
    ],
)
def test_damaged_proofs_are_refused(tmp_path: Path, artefacts: Any, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    content = json.dumps({"schema_version": 2, "artefacts": artefacts})
    (tmp_path / "parity.json").write_text(content, encoding="utf-8")
    for use in (require_proof, require_unchanged, check, lambda path: record(path, {})):
        with pytest.raises(UsageError, match=message):
            use(tmp_path / "model.onnx")
    assert (tmp_path / "parity.json").read_text(encoding="utf-8") == content


def test_a_proof_without_what_was_measured_is_refused(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported().SerializeToString())
    for entry in ({}, {**PROOF, "tasks": [1]}, {**PROOF, "tasks": {"depth": {"value": "x"}}}):
        record(path, entry)
        with pytest.raises(UsageError, match=r"a proof is damaged at (images|tasks)"):
            check(path)


def test_a_proof_holds_for_the_weights_that_were_exported(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.onnx", tmp_path / "weights.pt"
    path.write_bytes(b"network")
    weights.write_bytes(b"weights")
    record(path, {"weights_sha256": hashlib.sha256(b"weights").hexdigest()})
    assert require_proof(path)["weights_sha256"] == digest(weights)
    weights.write_bytes(b"trained anew")
    for use in (require_proof, require_unchanged, check):
        with pytest.raises(UsageError, match="trained anew since; export it again"):
            use(path)
    weights.unlink()  # a copy on a device
    assert require_proof(path)["sha256"] == digest(path)
    weights.write_bytes(b"anything")
    record(path, {})  # of a version that did not tell
    require_proof(path)


def test_the_main_file_of_a_folder_stands_for_the_folder(
    exported: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model.openvino"
    folder.mkdir()
    write_openvino(exported(), folder)
    record(folder, PROOF)
    monkeypatch.chdir(folder)
    for path in (folder, folder / "model.xml", Path("model.xml"), Path()):
        found = check(path)
        assert found.path.resolve() == folder
        assert found.proof is not None
        assert found.metadata["precision"] == "fp32"
    with (folder / "model.bin").open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(UsageError, match="not the file that was proved"):
        check(folder / "model.xml")
    assert artefact_at(tmp_path / "m.stages" / "manifest.json") == tmp_path / "m.stages"
    assert artefact_at(tmp_path / "model.xml") == tmp_path / "model.xml"


def test_weights_in_another_file_are_told(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(exported())
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert any("in another file, which can get lost" in note for note in check(path).notes)

"""`bmtas export`, `check` and `predict` on a trained network: what is written, what is refused, and what the files compute."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from bmtas.progress import Silent
from bmtas.run_training import open_run_dataset
from bmtas.runs import Run
from bmtas.training import load_network
from export.deliver import export_network
from export.madds import madds
from export.precision.guard import Drop
from export.request import ExportRequest

NEEDED = ("run.json", "table.json", "architecture.json", "networks/found/weights.pt")
ROOT = Path(__file__).resolve().parents[2]
# Two steps of training leave a network whose normalisations enlarge rounding; what is tested here is not its precision.
LOOSE = ("--tolerance", "semseg=1,edge=0,depth=1e9")
QUICK = ("--images", "2", "--quiet")


def network_of(run: Path) -> Any:
    opened = Run(run)
    return load_network(opened.config(), opened.architecture("found"), opened.require_trained("found"))


def camera_image(data: Path) -> np.ndarray:
    return np.asarray(Image.open(data.parent / "images/10.png").convert("RGB"))


@pytest.fixture
def run(copied_run: Callable[..., Path]) -> Path:
    return copied_run(*NEEDED)


@dataclass(frozen=True)
class Whole:
    """One run exported once in several formats, and what the command answered."""

    run: Path
    result: Any
    report: dict[str, Any]


@pytest.fixture(scope="module")
def whole(trained_run: Any, bmtas: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    path = root / "runs" / trained_run.path.name
    for name in NEEDED:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained_run.path / name, path / name)
    report = root / "report.json"
    asked = ("--format", "onnx,openvino,pt2", "--split-at-branches", *QUICK, "--json", report, "--runs", path.parent)
    result = bmtas("export", *asked)
    assert result.code == 0, result.err
    return Whole(path, result, json.loads(report.read_text(encoding="utf-8")))


def proofs(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    return dict(content["artefacts"])


def test_several_formats_and_stages_are_written_and_proved_by_one_command(
    whole: Whole, bmtas: Callable[..., Any]
) -> None:
    folder = whole.run / "networks/found"
    names = ["model.onnx", "model.stages", "model.openvino", "model.pt2"]
    assert [Path(line).name for line in whole.result.out.split()] == names
    assert sorted(proofs(folder)) == sorted(names)
    for name in names:
        proof = proofs(folder)[name]
        assert proof["passed"]
        assert list(proof["tasks"]) == proof["task_order"] == ["semseg", "edge", "depth"]
        assert proof["tasks"]["depth"]["max_scaled_difference"] <= 1e-4
        assert bmtas("check", folder / name).code == 0
    assert [Path(a["path"]).name for a in whole.report["networks"]["found"]["artefacts"]] == names
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_a_subset_of_the_tasks_takes_camera_frames_and_gives_final_predictions(
    run: Path, bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    arguments = (
        "--tasks",
        "depth,semseg",
        "--outputs",
        "predictions",
        "--input",
        "uint8",
        *QUICK,
        "--runs",
        run.parent,
    )
    result = bmtas("export", *arguments)
    assert result.code == 0, result.err
    path = run / "networks/found/model.depth+semseg.predictions.uint8.onnx"
    assert path.is_file()
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    image = camera_image(tiny_data)
    np.save(frames / "a.npy", image)
    Image.fromarray(image).save(frames / "b.png")
    done = bmtas("predict", path, "--images", frames, "--out", out, "--quiet", "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out)["computed"] == {"depth": 2, "semseg": 2}
    with torch.inference_mode():
        raw = network_of(run)(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None])
    for name in ("a", "b"):
        with np.load(out / f"{name}.npz") as found:
            assert list(found) == ["depth", "semseg"]
            np.testing.assert_allclose(found["depth"], raw["depth"].numpy(), rtol=1e-4, atol=1e-4)
            assert (found["semseg"] != raw["semseg"].argmax(1).numpy()).mean() < 0.001
    told = json.loads(bmtas("check", path, "--json", "-").out)["files"][0]
    assert [task["name"] for task in told["metadata"]["tasks"]] == ["depth", "semseg"]
    whole = json.loads((run / "architecture.json").read_text(encoding="utf-8"))["costs"]
    assert told["metadata"]["costs"]["madds"] < whole["madds"]
    assert madds(onnx.load(str(path))) == told["metadata"]["costs"]["madds"]  # counted in the file
    assert told["metadata"]["architecture"]["tasks"] == ["depth", "semseg"]


def test_all_files_are_checked_even_if_one_is_broken(whole: Whole, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    folder = whole.run / "networks/found"
    broken = tmp_path / "copy.stages"
    shutil.copytree(folder / "model.stages", broken)
    (broken / "stage_00.onnx").write_bytes(b"cut")
    result = bmtas("check", broken, folder / "model.onnx", "--json", "-")
    assert result.code == 2
    assert "stage_00.onnx" in result.err
    content = json.loads(result.out)
    assert [Path(told["path"]).name for told in content["files"]] == ["model.onnx"]
    assert len(content["problems"]) == 1


def test_stages_run_each_task_at_its_own_rate(
    whole: Whole, bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    folder, frames = whole.run / "networks/found", tiny_data.parent / "images"
    asked = {"all": ("model.onnx",), "some": ("model.stages", "--rates", "semseg=1,depth=1/3")}
    for name, (artefact, *rates) in asked.items():
        place = ("--images", frames, "--out", tmp_path / name)
        done = bmtas("predict", folder / artefact, *place, *rates, "--quiet", "--json", "-")
        assert done.code == 0, done.err
    assert json.loads(done.out)["computed"] == {"semseg": 12, "depth": 4}
    for i in range(12):
        with np.load(tmp_path / f"some/{i:02d}.npz") as some, np.load(tmp_path / f"all/{i:02d}.npz") as now:
            assert int(some["age.depth"]) == i % 3
            np.testing.assert_allclose(some["semseg"], now["semseg"], rtol=1e-5, atol=1e-5)
            with np.load(tmp_path / f"all/{i - i % 3:02d}.npz") as then:
                np.testing.assert_allclose(some["depth"], then["depth"], rtol=1e-5, atol=1e-5)
    refused = bmtas(
        "predict", folder / "model.onnx", "--images", frames, "--out", tmp_path / "x", "--rates", "semseg=1"
    )
    assert refused.code == 2
    assert "--split-at-branches" in refused.err


def test_16_bits_stand_in_the_graph_with_fp32_at_its_ends(run: Path, bmtas: Callable[..., Any]) -> None:
    result = bmtas("export", "--precision", "fp16,bf16", *LOOSE, *QUICK, "--runs", run.parent)
    assert result.code == 0, result.err
    for precision, kind in (("fp16", onnx.TensorProto.FLOAT16), ("bf16", onnx.TensorProto.BFLOAT16)):
        model = onnx.load(str(run / f"networks/found/model.{precision}.onnx"))
        onnx.checker.check_model(model, full_check=True)
        assert {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]} == {
            onnx.TensorProto.FLOAT
        }
        weights = {i.name: i.data_type for i in model.graph.initializer}
        kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
        assert sum(weights.get(name) == kind for name in kernels) > 0.9 * len(kernels)
        assert {p.key: p.value for p in model.metadata_props}["bmtas.precision"] == f'"{precision}"'


@pytest.mark.slow
def test_a_network_that_is_not_the_same_leaves_no_file_and_exits_5(run: Path, bmtas: Callable[..., Any]) -> None:
    result = bmtas("export", "--precision", "bf16", "--tolerance", "depth=0", *QUICK, "--runs", run.parent)
    assert result.code == 5
    assert "depth differs" in result.err
    assert sorted(p.name for p in (run / "networks/found").iterdir()) == ["weights.pt"]


@pytest.mark.slow
def test_int8_that_loses_too_much_is_reported_and_not_written(run: Path, tmp_path: Path) -> None:
    black = tmp_path / "black"
    black.mkdir()
    Image.new("RGB", (64, 64)).save(black / "one.png")
    opened = Run(run)
    # No network doubles a metric by being rounded, so nothing that is kept in higher precision saves it.
    few = {"images": 2, "score_images": 2, "samples": 5, "tasks": ("depth",), "tolerances": {"depth": 1e9}}
    request = ExportRequest(precisions=("int8", "fp32"), calibration=black, drop=Drop(-1.0), **few)
    delivery = export_network(opened, "found", open_run_dataset(opened), request, Silent())
    folder = run / "networks/found"
    assert [(type(error).__name__, error.exit_code) for error in delivery.failures] == [("BuildError", 4)]
    assert "--force" in str(delivery.failures[0])
    assert [artefact.path.name for artefact in delivery.artefacts] == ["model.depth.onnx"]  # the other one is written
    assert not (folder / "model.depth.int8.onnx").exists()
    report = json.loads((folder / "model.depth.int8.report.json").read_text(encoding="utf-8"))
    assert report["calibration"] == {"images": 1, "method": "minmax", "source": str(black)}
    assert not report["decision"]["keep"]
    assert report["metrics_fp32"]["depth"] > 0
    assert report["score_images"] == 2
    modules = [entry["module"] for entry in report["sensitivity"]]
    assert {module.split("/")[0].split(".")[0] for module in modules} == {"stem", "layers", "heads"}
    totals = [entry["total"] for entry in report["sensitivity"]]
    assert totals == sorted(totals, reverse=True)
    assert [trial["accepted"] for trial in report["trials"]] == [False] * len(report["trials"])


@pytest.mark.slow
def test_int8_is_written_where_it_is_forced(run: Path, bmtas: Callable[..., Any]) -> None:
    few = ("--tasks", "depth", "--score-images", "2", "--samples", "5", "--tolerance", "depth=1e9", *QUICK)
    forced = ("--calibration", "4", "--max-drop", "1000%", "--force", "--runs", run.parent)
    result = bmtas("export", "--precision", "int8", *few, *forced)
    assert result.code == 0, result.err
    model = onnx.load(str(run / "networks/found/model.depth.int8.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert onnx.TensorProto.INT8 in {i.data_type for i in model.graph.initializer}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}


def test_calibration_without_pictures_is_refused(run: Path, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "absent"):
        result = bmtas("export", "--precision", "int8", "--calibration", folder, "--runs", run.parent)
        assert result.code == 2
        assert "--calibration" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "tflite"), "unknown format 'tflite'"),
        (("--precision", "fp8"), "unknown precision 'fp8'"),
        (("--format", "pt2", "--precision", "fp16"), "pt2 has no fp16"),
        (("--tasks", "semseg,depht"), "did you mean 'depth'"),
        (("--dynamic", "sizes"), "did you mean 'size'"),
        (("--dynamic", "batch", "--precision", "fp16"), "--dynamic"),
        (("--tolerance", "semseg"), "--tolerance"),
        (("--tolerance", "normals=1"), "'normals'"),
        (("--max-drop", "1"), "--max-drop"),
        (("--remote", "user@host", "--format", "onnx"), "--format tensorrt"),
        (("--merge-branches", "--precision", "fp16"), "--merge-branches"),
        (("--merge-branches", "--split-at-branches"), "--merge-branches"),
        (("--format", "pt2", "--split-at-branches"), "--format onnx"),
        (("--precision", "bf16", "--split-at-branches"), "bfloat16"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    run: Path, bmtas: Callable[..., Any], arguments: tuple[str, ...], said: str
) -> None:
    result = bmtas("export", *arguments, *QUICK, "--runs", run.parent)
    assert result.code == 2, result.err
    assert said in result.err
    assert sorted(p.name for p in (run / "networks/found").iterdir()) == ["weights.pt"]


@pytest.mark.slow
def test_a_kit_for_another_machine_holds_all_it_needs_and_two_commands(run: Path, bmtas: Callable[..., Any]) -> None:
    result = bmtas(
        "export",
        "--precision",
        "fp16",
        "--remote",
        "nvidia@orin",
        "--remote-program",
        "venv/bin/bmtas",
        *LOOSE,
        *QUICK,
        "--runs",
        run.parent,
    )
    assert result.code == 0, result.err
    copy, build = result.out.strip().splitlines()
    kit = run / "networks/found/model.fp16.tensorrt"
    assert copy == f"scp -r {kit.resolve()} nvidia@orin:"
    assert build == "ssh nvidia@orin 'venv/bin/bmtas build model.fp16.tensorrt'"
    assert sorted(p.name for p in kit.iterdir()) == ["kit.json", "model.fp16.onnx", "references.npz"]
    told = json.loads(bmtas("check", kit, "--json", "-").out)["files"][0]
    assert told["metadata"]["precision"] == "fp16"
    assert told["proof"]["runtime"].startswith("every value rounded")
    (kit / "model.fp16.onnx").write_bytes(b"changed")
    assert bmtas("check", kit).code == 2


def test_the_script_of_the_docs_runs_on_an_exported_file(whole: Whole, tiny_data: Path, tmp_path: Path) -> None:
    run = whole.run
    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    script = tmp_path / "device.py"
    script.write_text(found.group(1), encoding="utf-8")
    assert len(found.group(1).splitlines()) <= 20
    image = camera_image(tiny_data)
    np.save(tmp_path / "image.npy", image)
    done = subprocess.run(
        [sys.executable, script, run / "networks/found/model.onnx", tmp_path / "image.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.inference_mode():
        raw = network_of(run)(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None])
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["semseg", "edge", "depth"]
    means = {
        "semseg": raw["semseg"].argmax(1).float().mean(),
        "edge": raw["edge"].sigmoid().mean(),
        "depth": raw["depth"].mean(),
    }
    for task, _, mean in lines:
        assert float(mean) == pytest.approx(float(means[task]), abs=1e-3)

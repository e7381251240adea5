"""From a kit to its engines and their report, and the command that builds them, over the stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bmtas.errors import EnvironmentProblem, ParityError, UsageError
from bmtas.progress import Silent
from cli.build import build_command
from export.tensorrt import sidecar
from export.tensorrt.build import BuildStopped
from export.tensorrt.engine_file import build_engine
from export.tensorrt.kit import prepare_kit
from export.tensorrt.on_device import KitIncomplete, build_kit
from export.tensorrt.options import EngineOptions
from export.tensorrt.preflight import check_engine
from tests.export import tensorrt_stand_in as stand_in
from tests.export.tensorrt_networks import references_of, write_network

NONE = EngineOptions(timing_cache=False)
HOST = {"fp16": {"range_check": {"out_of_range": [{"node": "heads.edge/Conv", "largest": 7e4}]}}}


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    files = {p: tmp_path / f"model.{p}.onnx" for p in ("fp32", "fp16", "int8")}
    for precision, path in files.items():
        write_network(path, precision)
    references = references_of(files["fp32"])
    prepare_kit(tmp_path / "kit", files, references, options=NONE, remote="orin", samples=3, warmup=0, host=HOST)
    return tmp_path / "kit"


def test_a_kit_is_built_proved_and_measured(cudart: stand_in.Cudart, kit: Path) -> None:
    report = build_kit(kit, Silent(), least_share=0.1)
    assert report == json.loads((kit / "report.json").read_text(encoding="utf-8"))
    assert report["machine"] == {"device": "Stand-in GPU", "compute_capability": "8.7", "tensorrt": "10.3.0"}
    assert list(report["engines"]) == ["fp32", "fp16", "int8"]
    assert sorted(report["ratios"]) == ["fp16_over_int8", "fp32_over_fp16", "fp32_over_int8"]
    assert (report["failures"], report["removed"]) == ({}, [])
    assert report["host"] == HOST
    for precision, entry in report["engines"].items():
        assert entry["timing"]["samples"] == 3
        engine = kit / f"model.{precision}.engine"
        assert engine.exists() == sidecar.sidecar_path(engine).exists() == entry["kept"]
        if entry["kept"]:
            assert check_engine(engine).timing["median_ms"] == entry["timing"]["median_ms"]  # type: ignore[index]
    times = report["engines"]["fp16"]["timing"]["latencies_ms"], report["engines"]["int8"]["timing"]["latencies_ms"]
    quartile = np.sort(np.array(times[0]) / times[1])[0]  # of three values, the lower quartile is the least
    assert report["int8"]["keep"] == report["engines"]["int8"]["kept"] == (quartile > 1)


def test_an_int8_engine_that_is_slower_is_taken_away_unless_forced(
    cudart: stand_in.Cudart, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in.Engine, "int8_takes_s", 0.05)  # beside much less than 1 ms in FP16
    report = build_kit(kit, Silent(), least_share=0.1)
    assert "not reliably faster" in report["int8"]["reason"]
    assert not report["engines"]["int8"]["kept"]
    assert sorted(path.name for path in kit.glob("*.engine*")) == [
        *("model.fp16.engine", "model.fp16.engine.json", "model.fp32.engine", "model.fp32.engine.json")
    ]
    forced = build_kit(kit, Silent(), least_share=0.1, keep_slow_int8=True)
    assert "forced" in forced["int8"]["reason"]
    assert check_engine(kit / "model.int8.engine").precision == "int8"


def test_one_engine_that_fails_does_not_take_the_others_with_it(cudart: stand_in.Cudart, kit: Path) -> None:
    with pytest.raises(KitIncomplete, match=r"int8: .*not int8.*built and proved: model\.fp32\.engine") as caught:
        build_kit(kit, Silent(), least_share=0.6)
    report = json.loads((kit / "report.json").read_text(encoding="utf-8"))
    assert (caught.value.report, caught.value.report_path) == (report, kit / "report.json")
    assert (caught.value.exit_code, report["failures"]["int8"]["exit_code"]) == (4, 4)
    assert (list(report["engines"]), list(report["failures"])) == (["fp32", "fp16"], ["int8"])
    assert report["machine"]["device"] == "Stand-in GPU"
    assert report["host"] == HOST
    assert list(report["ratios"]) == ["fp32_over_fp16"]
    for entry in report["engines"].values():
        assert (entry["kept"], entry["proved"], entry["timing"]["samples"]) == (True, True, 3)
        assert check_engine(kit / entry["file"]).parity == entry["parity"]
    assert sorted(path.name for path in kit.glob("*.engine*")) == [
        *("model.fp16.engine", "model.fp16.engine.json", "model.fp32.engine", "model.fp32.engine.json")
    ]


def test_an_engine_that_computes_something_else_ends_a_kit_with_the_code_of_parity(
    cudart: stand_in.Cudart, tmp_path: Path
) -> None:
    files = {p: tmp_path / f"model.{p}.onnx" for p in ("fp32", "fp16")}
    write_network(files["fp32"], head=1.5)
    write_network(files["fp16"], "fp16")
    original = tmp_path / "original.onnx"
    write_network(original)
    prepare_kit(tmp_path / "kit", files, references_of(original), options=NONE, samples=3, warmup=0)
    with pytest.raises(KitIncomplete, match=r"fp32: .*edge differs") as caught:
        build_kit(tmp_path / "kit", Silent(), least_share=0.1)
    assert caught.value.exit_code == ParityError.exit_code
    assert list(caught.value.report["engines"]) == ["fp16"]


def test_a_kit_whose_engines_cannot_be_measured_is_reported_all_the_same(
    cudart: stand_in.Cudart, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(3))  # as many contexts as there are builds, each proved and freed; none for measuring
    create = stand_in.Engine.create_execution_context
    monkeypatch.setattr(
        stand_in.Engine, "create_execution_context", lambda self: None if next(left, None) is None else create(self)
    )
    with pytest.raises(KitIncomplete, match=r"measurement: the GPU has no memory left") as caught:
        build_kit(kit, Silent(), least_share=0.1)
    assert caught.value.exit_code == EnvironmentProblem.exit_code
    report = json.loads((kit / "report.json").read_text(encoding="utf-8"))
    assert {name: (entry["kept"], entry["timing"]) for name, entry in report["engines"].items()} == {
        "fp32": (True, None),
        "fp16": (True, None),
        "int8": (False, None),
    }
    assert "could not be measured" in report["int8"]["reason"]
    assert not list(kit.glob("model.int8.engine*"))
    assert sidecar.read(kit / "model.fp16.engine").timing is None


def test_engines_of_an_earlier_kit_are_removed_and_those_of_this_one_stay(cudart: stand_in.Cudart, kit: Path) -> None:
    build_kit(kit, Silent(), least_share=0.1, keep_slow_int8=True)
    own = kit / "own.engine"
    build_engine(
        kit / "model.fp16.onnx",
        own,
        precision="fp16",
        references=None,
        limits=None,
        options=NONE,
        progress=Silent(),
    )
    for name in ("foreign.engine", "foreign.engine.json"):
        (kit / name).write_bytes(b"not of bmtas")
    # What `scp -r` of a new kit does to an old one on the device: INT8 is no longer there, FP32 was trained anew.
    files = {p: kit.parent / f"model.{p}.onnx" for p in ("fp32", "fp16")}
    write_network(files["fp32"], seed=3)
    references = references_of(files["fp32"])
    new = kit.parent / "new"
    prepare_kit(new, files, references, options=NONE, samples=2, warmup=0)
    shutil.copytree(new, kit, dirs_exist_ok=True)
    with pytest.raises(UsageError, match="exported anew since"):
        check_engine(kit / "model.fp32.engine")
    before = check_engine(kit / "model.fp16.engine")
    told = stand_in.Told()
    with pytest.raises(KitIncomplete, match=r"fp16: .*differs") as caught:  # the FP16 file is of the old weights
        build_kit(kit, told, least_share=0.1)
    assert caught.value.report["removed"] == ["model.fp32.engine", "model.int8.engine"]
    assert any("model.int8.engine is removed" in line for line in told.lines)
    assert caught.value.report["failures"]["fp16"]["earlier_engine"] == "model.fp16.engine"
    assert check_engine(kit / "model.fp16.engine") == before
    assert check_engine(own).precision == "fp16"
    assert sorted(path.name for path in kit.glob("*.engine")) == [
        *("foreign.engine", "model.fp16.engine", "model.fp32.engine", "own.engine")
    ]


def test_a_build_that_is_stopped_leaves_no_report_of_an_earlier_one(
    cudart: stand_in.Cudart, kit: Path, signal_after: type[Silent]
) -> None:
    build_kit(kit, Silent(), least_share=0.1)
    before = check_engine(kit / "model.fp32.engine")
    with pytest.raises(BuildStopped):
        build_kit(kit, signal_after(1, signal.SIGTERM), least_share=0.1)  # type: ignore[call-arg]
    assert not (kit / "report.json").exists()
    assert check_engine(kit / "model.fp32.engine") == before


def test_options_that_this_machine_lacks_change_nothing(cudart: stand_in.Cudart, kit: Path) -> None:
    build_kit(kit, Silent(), least_share=0.1)
    before = {path.name: path.read_bytes() for path in kit.iterdir()}
    for changes, match in (({"hardware_compatibility": "same"}, r"10\.9 or later"), ({"tf32": True}, "not fp32")):
        with pytest.raises(UsageError, match=match):
            build_kit(kit, Silent(), changes=changes)
    assert {path.name: path.read_bytes() for path in kit.iterdir()} == before


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command("build")(build_command)
    return app


def test_the_command_builds_a_kit_and_prints_its_engines(
    cudart: stand_in.Cudart, kit: Path, command: typer.Typer
) -> None:
    asked = [
        str(kit),
        "-q",
        "--least-share",
        "0.1",
        "--workspace",
        "1GiB",
        "--force",
        "--samples",
        "2",
        "--warmup",
        "1",
    ]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 0, done.output
    assert f"{kit}/model.fp16.engine" in done.stdout.splitlines()
    assert sidecar.read(kit / "model.fp16.engine").options["workspace_mib"] == 1024
    said = CliRunner().invoke(command, [*asked, "--json", "-"])
    assert json.loads(said.stdout)["engines"]["fp32"]["timing"]["samples"] == 2


def test_the_command_shows_what_was_built_before_it_fails(
    cudart: stand_in.Cudart, kit: Path, command: typer.Typer, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(command, [str(kit), "-q", "--least-share", "0.6", "--json", str(out)])
    assert isinstance(done.exception, KitIncomplete)
    assert f"{kit}/model.fp16.engine" in done.stdout.splitlines()
    assert list(json.loads(out.read_text(encoding="utf-8"))["failures"]) == ["int8"]


def test_the_command_of_a_refusal_builds_the_same_engine(
    cudart: stand_in.Cudart, onnx_path: Path, command: typer.Typer
) -> None:
    engine = onnx_path.with_suffix(".engine")
    options = EngineOptions(64, 2, 0, "ampere+", version_compatible=True, timing_cache=False)
    first = build_engine(
        onnx_path, engine, precision="fp32", references=None, limits=None, options=options, progress=Silent()
    )
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(UsageError, match="SHA-256 differs") as caught:
        check_engine(engine)
    words = shlex.split(str(caught.value).split("`")[1])
    assert words[:2] == ["bmtas", "build"]
    done = CliRunner().invoke(command, [*words[2:], "-q"])
    assert done.exit_code == 0, done.output
    assert check_engine(engine) == first


def test_the_command_builds_one_file_only_if_something_can_prove_it(
    cudart: stand_in.Cudart, onnx_path: Path, command: typer.Typer
) -> None:
    engine = onnx_path.with_suffix(".engine")
    refused = CliRunner().invoke(command, [str(onnx_path)])
    assert isinstance(refused.exception, UsageError)
    assert "--unproved builds without proof" in str(refused.exception)
    assert not engine.exists()
    done = CliRunner().invoke(command, [str(onnx_path), "--unproved", "--no-timing-cache"])
    assert (done.exit_code, done.stdout.strip()) == (0, str(engine))
    assert sidecar.read(engine).parity is None
    references_of(onnx_path).save(onnx_path.with_name("references.npz"))
    done = CliRunner().invoke(command, [str(onnx_path), "-q", "--tolerance", "1e-4", "--no-timing-cache"])
    assert done.exit_code == 0, done.output
    parity = sidecar.read(engine).parity
    assert parity is not None
    assert parity["tasks"]["depth"]["max_scaled_limit"] == 1e-4
    both = CliRunner().invoke(command, [str(onnx_path), "--unproved"])
    assert isinstance(both.exception, UsageError)
    mistyped = CliRunner().invoke(command, [str(onnx_path), "--tolerance", "deepth=0.1"])
    assert "did you mean 'depth'" in str(mistyped.exception)


def test_options_of_the_other_kind_of_target_are_refused(
    cudart: stand_in.Cudart, onnx_path: Path, kit: Path, command: typer.Typer
) -> None:
    for asked in ([str(kit), "--precision", "fp16"], [str(kit), "--unproved"], [str(onnx_path), "--samples", "5"]):
        assert isinstance(CliRunner().invoke(command, asked).exception, UsageError), asked

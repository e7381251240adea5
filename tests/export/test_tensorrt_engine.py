"""From the ONNX file to the proved engine, over stand-ins for TensorRT and CUDA that compute with ONNX Runtime.

They hold how our code uses both; what real ones do, `make verify-tensorrt` shows on a machine that has them.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bmtas.errors import BuildError, EnvironmentProblem, ParityError, UsageError
from bmtas.progress import Silent
from cli.build import build_command
from export.proof.limits import Limit
from export.tensorrt import api, cuda, sidecar
from export.tensorrt.build import BuildStopped
from export.tensorrt.deliver import build_engine
from export.tensorrt.engine import EngineSession
from export.tensorrt.kit import prepare_kit
from export.tensorrt.on_device import build_kit
from export.tensorrt.onnx_facts import onnx_metadata
from export.tensorrt.options import EngineOptions
from export.tensorrt.preflight import check_engine
from export.tensorrt.sidecar import Sidecar
from tests.export import tensorrt_stand_in as stand_in
from tests.export.tensorrt_networks import TASKS, references_of, write_network

NONE = EngineOptions(timing_cache=False)


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[stand_in.Cudart]:
    """CUDA, as long as the test runs, and TensorRT beside it; the timing caches are the test's own."""
    here = stand_in.Cudart()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt_module())
    monkeypatch.setattr(cuda, "library", lambda: here)
    monkeypatch.setattr(stand_in.Builder, "fail", None)
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "cache"))
    api.log.cache_clear()
    yield here
    api.log.cache_clear()


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_network(path)
    return path


def build(path: Path, precision: str = "fp32", **changes: Any) -> Sidecar:
    asked: dict[str, Any] = {"references": None, "limits": None, "options": NONE, "progress": Silent(), **changes}
    return build_engine(path, path.with_suffix(".engine"), precision=precision, **asked)


class Told(Silent):
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.lines.append(f"{name} of {total}")

    def advance(self, **values: float) -> None:
        self.lines.append("step")

    def state(self, **texts: str) -> None:
        self.lines.extend(texts.values())

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_an_engine_is_proved_and_described(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    described = build(onnx_path, references=references_of(onnx_path))
    engine = onnx_path.with_suffix(".engine")
    assert check_engine(engine) == described == sidecar.read(engine)
    assert (described.device, described.compute_capability) == ("Stand-in GPU", (8, 7))
    assert (described.tensorrt, described.cuda_runtime, described.cuda_driver) == ("10.3.0", "12.6", "12.8")
    assert described.layer_formats == {"Float": 8}  # an input and an output of each of four nodes
    assert described.precision_found == {"fp32": 1.0}
    assert described.inputs["image"].shape == (1, 3, 8, 8)
    assert [task.name for task in described.tasks] == ["depth", "edge"]
    assert described.parity is not None
    assert described.parity["images"] == 2
    assert all(entry["passed"] for entry in described.parity["tasks"].values())
    gc.collect()
    assert (cudart.blocks, cudart.streams) == ({}, 0)  # all memory of the GPU was given back


def test_tf32_is_off_and_options_reach_the_builder(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    build(onnx_path)
    config = stand_in.Builder.last
    assert stand_in.Flags.TF32 not in config.flags
    assert config.pool == {}
    assert not hasattr(config, "max_aux_streams")
    options = EngineOptions(64, 2, 0, "ampere+", version_compatible=True, timing_cache=False)
    described = build(onnx_path, options=options)
    config = stand_in.Builder.last
    assert config.pool == {"WORKSPACE": 64 * 1024 * 1024}
    assert stand_in.Flags.VERSION_COMPATIBLE in config.flags
    assert (config.max_aux_streams, config.builder_optimization_level) == (0, 2)  # type: ignore[attr-defined]
    assert config.hardware_compatibility_level == "AMPERE_PLUS"  # type: ignore[attr-defined]
    assert described.options["workspace_mib"] == 64
    with pytest.raises(UsageError, match="not fp32"):
        build(onnx_path, options=EngineOptions(tf32=True))


def test_a_session_runs_the_engine_and_refuses_other_inputs(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    references = references_of(onnx_path)
    build(onnx_path)
    session = EngineSession(onnx_path.with_suffix(".engine"))
    assert (session.runtime, session.provider, session.outputs) == (
        "tensorrt 10.3.0",
        "Stand-in GPU",
        ["depth", "edge"],
    )
    for i in (0, 1, 0):  # an engine keeps nothing of what it saw before
        found = session(references.images[i : i + 1])
        np.testing.assert_allclose(found["depth"], references.outputs["depth"][i : i + 1], atol=1e-5)
        np.testing.assert_allclose(found["edge"], references.outputs["edge"][i : i + 1], atol=1e-5)
    strided = np.ascontiguousarray(references.images[:1].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(session(strided)["edge"], references.outputs["edge"][:1], atol=1e-5)
    assert session.metadata()["precision"] == "fp32"
    with pytest.raises(UsageError, match=r"float32 of shape \(1, 3, 8, 8\), but was given float64"):
        session(references.images[:1].astype(np.float64))
    with pytest.raises(UsageError, match=r"was given float32 of \(2, 3, 8, 8\)"):
        session(references.images)
    with pytest.raises(UsageError, match="takes image, but was given picture"):
        session.run({"picture": references.images[:1]})


def test_an_engine_that_computes_something_else_is_not_written(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    other = onnx_path.with_name("other.onnx")
    write_network(other, head=1.5)  # the head `edge` differs, `depth` does not
    before = sorted(onnx_path.parent.iterdir())
    with pytest.raises(ParityError, match="edge differs") as caught:
        build(other, references=references_of(onnx_path))
    assert "depth" not in str(caught.value)
    assert sorted(onnx_path.parent.iterdir()) == before
    wide = {task.name: Limit(0.0 if task.name == "edge" else 1.0, None) for task in TASKS}
    assert build(other, references=references_of(onnx_path), limits=wide).parity is not None


def test_a_failed_build_leaves_the_engine_that_was_there(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    first = build(onnx_path, references=references_of(onnx_path))
    references = references_of(onnx_path)
    write_network(onnx_path, seed=9)
    with pytest.raises(ParityError):
        build(onnx_path, references=references)
    assert check_engine(onnx_path.with_suffix(".engine")) == first


def test_a_plan_is_never_left_without_its_sidecar(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    engine = onnx_path.with_suffix(".engine")
    sidecar.sidecar_path(engine).mkdir()  # so that the sidecar cannot be written
    with pytest.raises((OSError, EnvironmentProblem)):
        build(onnx_path)
    assert not engine.exists()
    assert sorted(path.name for path in onnx_path.parent.iterdir()) == ["model.engine.json", "model.onnx"]


def test_the_precision_is_read_back_from_the_engine(cudart: stand_in.Cudart, tmp_path: Path) -> None:
    half, liar = tmp_path / "model.fp16.onnx", tmp_path / "liar.onnx"
    write_network(half, "fp16")
    described = build(half, "fp16")
    # Cast, Conv, Relu, two Convs and two Casts: of 14 ends, the image and the two outputs are FP32.
    assert described.layer_formats == {"Float": 3, "Half": 11}
    with pytest.raises(UsageError, match="holds fp16, but fp32 was asked for"):
        build(half, "fp32")
    write_network(liar)
    liar.write_bytes(liar.read_bytes().replace(b'"fp32"', b'"fp16"'))  # says fp16 and is not
    with pytest.raises(BuildError, match="the engine is not fp16: 100% fp32"):
        build(liar, "fp16")
    assert not liar.with_suffix(".engine").exists()


def test_a_file_that_tensorrt_cannot_parse_is_explained_by_node(cudart: stand_in.Cudart, tmp_path: Path) -> None:
    write_network(tmp_path / "model.onnx", operator="NonZero")
    with pytest.raises(BuildError, match=r"node layers\.00\.depth/NonZero \(NonZero\): data-dependent shape"):
        build(tmp_path / "model.onnx")


def test_memory_that_ran_out_comes_with_advice(
    cudart: stand_in.Cudart, onnx_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in.Builder, "fail", "Error Code 2: OutOfMemory (Requested size was 4096 bytes.)")
    with pytest.raises(BuildError, match=r"OutOfMemory.*--workspace 256MiB.*--optimisation-level 1.*swap"):
        build(onnx_path)
    monkeypatch.setattr(stand_in.Builder, "fail", "no implementation for node layers.00")
    with pytest.raises(BuildError, match="no implementation") as caught:
        build(onnx_path)
    assert "--workspace" not in str(caught.value)


def test_the_phases_of_a_build_are_shown(cudart: stand_in.Cudart, onnx_path: Path) -> None:
    told = Told()
    build(onnx_path, progress=told)
    assert told.lines == ["Building Engine of 2", "Tactics", "Tactics, 1 of 1", "step", "step"]


def test_a_signal_stops_the_build_at_the_next_step(
    cudart: stand_in.Cudart, onnx_path: Path, signal_after: type[Silent]
) -> None:
    with pytest.raises(BuildStopped) as caught:
        build(onnx_path, progress=signal_after(1, signal.SIGTERM))  # type: ignore[call-arg]
    assert caught.value.exit_code == 128 + 15
    assert stand_in.Builder.steps == 1  # of two
    assert [path.name for path in onnx_path.parent.iterdir()] == ["model.onnx"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_timings_are_kept_for_the_next_build(cudart: stand_in.Cudart, onnx_path: Path, tmp_path: Path) -> None:
    build(onnx_path, options=EngineOptions())
    (kept,) = (tmp_path / "cache" / "tensorrt").iterdir()
    assert kept.name.startswith("stand-in-gpu-sm87-trt10.3.0-")
    assert kept.read_bytes() == b"timed"
    kept.write_bytes(b"of another machine")
    told = Told()
    build(onnx_path, options=EngineOptions(), progress=told)
    assert any("refuses the timing cache" in line for line in told.lines)
    assert kept.read_bytes() == b"timed"


def test_without_tensorrt_or_a_gpu_the_message_says_what_to_do(
    onnx_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it fails, as where it is not installed
    with pytest.raises(EnvironmentProblem, match=r"not available here.*JetPack.*`bmtas build`"):
        build(onnx_path)
    with pytest.raises(UsageError, match="does not exist"):
        build(onnx_path.with_name("absent.onnx"))


def test_what_an_onnx_file_says_is_read_without_onnx(onnx_path: Path) -> None:
    metadata = onnx_metadata(onnx_path)
    assert (metadata["precision"], [task["name"] for task in metadata["tasks"]]) == ("fp32", ["depth", "edge"])
    whole = onnx_path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"not a model at all", bytes(64)):
        onnx_path.write_bytes(damaged)
        with pytest.raises(UsageError, match="is no ONNX file"):
            onnx_metadata(onnx_path)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    files = {p: tmp_path / f"model.{p}.onnx" for p in ("fp32", "fp16", "int8")}
    for precision, path in files.items():
        write_network(path, precision)
    references = references_of(files["fp32"])
    prepare_kit(tmp_path / "kit", files, references, options=NONE, remote="orin", samples=3, warmup=0)
    return tmp_path / "kit"


def test_a_kit_is_built_proved_and_measured(cudart: stand_in.Cudart, kit: Path) -> None:
    report = build_kit(kit, Silent(), least_share=0.1)
    assert report == json.loads((kit / "report.json").read_text(encoding="utf-8"))
    assert report["machine"] == {"device": "Stand-in GPU", "compute_capability": "8.7", "tensorrt": "10.3.0"}
    assert list(report["engines"]) == ["fp32", "fp16", "int8"]
    assert sorted(report["ratios"]) == ["fp16_over_int8", "fp32_over_fp16", "fp32_over_int8"]
    assert report["failures"] == {}
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
    with pytest.raises(BuildError, match="not int8"):
        build_kit(kit, Silent(), least_share=0.6)
    report = json.loads((kit / "report.json").read_text(encoding="utf-8"))
    assert list(report["engines"]) == ["fp32", "fp16"]
    assert report["failures"]["int8"]["exit_code"] == 4
    assert not (kit / "model.int8.engine").exists()
    assert check_engine(kit / "model.fp16.engine").precision == "fp16"


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

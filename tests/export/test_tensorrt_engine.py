"""From the ONNX file to the proved engine, over stand-ins for TensorRT and CUDA that compute with ONNX Runtime.

They hold how our code uses both; what real ones do, `make verify-tensorrt` shows on a machine that has them.
"""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.errors import BuildError, EnvironmentProblem, ParityError, UsageError
from bmtas.progress import Silent
from export.onnx_metadata import onnx_metadata
from export.proof.limits import Limit
from export.tensorrt import sidecar
from export.tensorrt.build import BuildStopped
from export.tensorrt.engine import EngineSession
from export.tensorrt.engine_file import build_engine, engine_limits
from export.tensorrt.options import EngineOptions
from export.tensorrt.preflight import check_engine
from export.tensorrt.sidecar import Sidecar
from tests.export import tensorrt_stand_in as stand_in
from tests.export.tensorrt_networks import TASKS, references_of, write_network

NONE = EngineOptions(timing_cache=False)


def build(path: Path, precision: str = "fp32", **changes: Any) -> Sidecar:
    asked: dict[str, Any] = {"references": None, "limits": None, "options": NONE, "progress": Silent(), **changes}
    return build_engine(path, path.with_suffix(".engine"), precision=precision, **asked)


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
    other = onnx_path.with_name("other.onnx")
    write_network(other, seed=9)
    with pytest.raises(ParityError):
        build(onnx_path, references=references_of(other))
    assert check_engine(onnx_path.with_suffix(".engine")) == first


def test_a_plan_that_cannot_be_written_leaves_the_engine_that_was_there(
    cudart: stand_in.Cudart, onnx_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(onnx_path)
    engine, other = onnx_path.with_suffix(".engine"), onnx_path.with_name("other.onnx")
    write_network(other, seed=9)
    rename = Path.replace

    def stopped(path: Path, target: Path) -> Path:
        if Path(target) == engine:  # the sidecar is in place by now
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_engine(other, engine, precision="fp32", references=None, limits=None, options=NONE, progress=Silent())
    assert check_engine(engine) == first


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
    told = stand_in.Told()
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
    told = stand_in.Told()
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


def test_limits_are_handed_on_as_they_were_given(onnx_path: Path) -> None:
    references = references_of(onnx_path)
    raw = {p: engine_limits(p, references)["depth"].scaled for p in ("fp32", "fp16", "int8")}
    assert raw == {"fp32": 1e-3, "fp16": None, "int8": None}
    given = {p: engine_limits(p, references, {"fp16:depth": 0.5}, 1e-5)["depth"] for p in ("fp32", "fp16")}
    assert (given["fp32"].scaled, given["fp16"].scaled) == (1e-5, None)  # a raw number is of FP32 alone
    assert (given["fp32"].unit, given["fp16"].unit) == (0.001, 0.5)

"""An engine is loaded only where it belongs; everything else is refused before it is deserialised."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bmtas.errors import EnvironmentProblem, UsageError
from export.tensorrt import sidecar
from export.tensorrt.options import EngineOptions
from export.tensorrt.preflight import Machine, check_engine, load_checked
from export.tensorrt.sidecar import Sidecar, TensorFact, sidecar_path

PLAN = b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]) + b"kernels"
ORIN = Machine((10, 3, 0), (8, 7), "Orin")
DESCRIBED = Sidecar(
    written_by="bmtas 0",
    tensorrt="10.3.0",
    cuda_runtime="12.6",
    cuda_driver="12.6",
    device="Orin",
    compute_capability=(8, 7),
    precision="fp16",
    precision_found={"fp16": 0.9, "fp32": 0.1},
    layer_formats={"Half": 9, "Float": 1},
    facts={"layers": 5},
    options={"hardware_compatibility": "none", "version_compatible": False},
    metadata={"tasks": [{"name": "depth", "kind": "depth", "classes": []}]},
    inputs={"image": TensorFact(shape=(1, 3, 8, 8), dtype="float32")},
    outputs={"depth": TensorFact(shape=(1, 1, 8, 8), dtype="float32")},
    onnx_sha256="0" * 64,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    plan_bytes=len(PLAN),
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.fp16.engine"
    path.write_bytes(PLAN)
    sidecar.write(path, DESCRIBED)
    return path


def with_options(engine: Path, **options: Any) -> None:
    sidecar.write(engine, DESCRIBED.model_copy(update={"options": {**DESCRIBED.options, **options}}))


def test_the_engine_of_this_machine_passes_and_its_sidecar_comes_back(engine: Path) -> None:
    assert sidecar_path(engine).name == "model.fp16.engine.json"
    assert check_engine(engine, ORIN) == DESCRIBED
    assert load_checked(engine, ORIN)[0] == PLAN
    assert [task.name for task in check_engine(engine, ORIN).tasks] == ["depth"]


def test_a_changed_plan_is_refused_with_the_command_that_builds_it_anew(engine: Path) -> None:
    engine.write_bytes(PLAN[:-1] + b"S")  # one byte of the kernels
    with pytest.raises(UsageError, match=r"SHA-256 differs.*`bmtas build .*model\.fp16\.onnx --precision fp16.*`"):
        check_engine(engine, ORIN)


def rebuild_command(message: str) -> list[str]:
    """The words of the command between the backticks of a refusal."""
    return shlex.split(message.split("`")[1])


def test_an_onnx_file_that_was_exported_anew_is_noticed(engine: Path) -> None:
    source = engine.with_suffix(".onnx")
    source.write_bytes(b"the network")
    sidecar.write(engine, DESCRIBED.model_copy(update={"onnx_sha256": hashlib.sha256(b"the network").hexdigest()}))
    engine.with_name("model.onnx").write_bytes(b"of another engine")
    assert check_engine(engine, ORIN).precision == "fp16"
    source.write_bytes(b"the network, trained anew")
    with pytest.raises(UsageError, match="the ONNX file was exported anew since") as caught:
        check_engine(engine, ORIN)
    assert rebuild_command(str(caught.value))[:5] == ["bmtas", "build", str(source), "--precision", "fp16"]
    source.unlink()  # a device may have the engine alone
    assert check_engine(engine, ORIN).precision == "fp16"


def test_the_command_that_rebuilds_asks_for_the_same_engine(engine: Path) -> None:
    options = EngineOptions(
        workspace_mib=512,
        optimisation_level=5,
        aux_streams=0,
        hardware_compatibility="ampere+",
        version_compatible=True,
        tf32=True,
        timing_cache=False,
    )
    with_options(engine, **options.to_json())
    with pytest.raises(EnvironmentProblem) as caught:
        check_engine(engine, replace(ORIN, tensorrt=(10, 2, 0)))
    assert rebuild_command(str(caught.value)) == [
        *("bmtas", "build", str(engine.with_suffix(".onnx")), "--precision", "fp16"),
        *("--workspace", "512MiB", "--optimisation-level", "5", "--aux-streams", "0"),
        *("--hardware-compatibility", "ampere+", "--version-compatible", "--tf32", "--no-timing-cache", "--unproved"),
    ]
    engine.with_name("references.npz").write_bytes(b"")  # what proves it is there, so --unproved would be refused
    with pytest.raises(EnvironmentProblem) as caught:
        check_engine(engine, replace(ORIN, tensorrt=(10, 2, 0)))
    assert rebuild_command(str(caught.value))[-1] == "--no-timing-cache"


def test_usual_options_are_not_repeated(engine: Path) -> None:
    assert EngineOptions().to_arguments() == []
    sidecar.write(engine, DESCRIBED.model_copy(update={"parity": {"images": 1}}))
    with pytest.raises(EnvironmentProblem) as caught:
        check_engine(engine, replace(ORIN, tensorrt=(10, 2, 0)))
    assert rebuild_command(str(caught.value)) == [
        *("bmtas", "build", str(engine.with_suffix(".onnx")), "--precision", "fp16")
    ]


def test_options_that_are_none_are_refused(engine: Path) -> None:
    for options in ({"hardware_compatibility": 5}, {"hardware_compatibility": "any"}, {"refit": True}):
        with_options(engine, **options)
        with pytest.raises(UsageError, match=r"model\.fp16\.engine\.json.*build the engine again"):
            check_engine(engine, ORIN)


def test_a_plan_without_sidecar_is_refused(engine: Path) -> None:
    sidecar_path(engine).unlink()
    with pytest.raises(UsageError, match=r"no model\.fp16\.engine\.json beside it.*native code"):
        check_engine(engine, ORIN)


def test_a_plan_that_is_missing_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check_engine(tmp_path / "absent.engine", ORIN)
    (tmp_path / "x.engine").write_bytes(b"\x08\x0a" * 20)
    with pytest.raises(UsageError, match="no TensorRT plan"):
        check_engine(tmp_path / "x.engine", ORIN)


def test_the_header_must_tell_the_version_of_the_sidecar(engine: Path) -> None:
    sidecar.write(engine, DESCRIBED.model_copy(update={"tensorrt": "10.7.0"}))
    with pytest.raises(UsageError, match=r"built by TensorRT 10\.3\.0\.30, but .* says 10\.7\.0"):
        check_engine(engine, ORIN)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_a_damaged_sidecar_is_refused(engine: Path, content: str) -> None:
    sidecar_path(engine).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"model\.fp16\.engine\.json"):
        check_engine(engine, ORIN)
    data = json.loads(DESCRIBED.model_dump_json())
    sidecar_path(engine).write_text(json.dumps({**data, "compute_capability": "8.7"}), encoding="utf-8")
    with pytest.raises(UsageError, match="compute_capability"):
        check_engine(engine, ORIN)


def test_another_version_of_tensorrt_is_refused(engine: Path) -> None:
    for version in ((10, 7, 0), (11, 4, 0, 106), (10, 2, 0)):
        with pytest.raises(EnvironmentProblem, match=r"this machine has 1.*--version-compatible.*--precision fp16"):
            check_engine(engine, replace(ORIN, tensorrt=version))


def test_version_compatible_plans_pass_upwards_only(engine: Path) -> None:
    with_options(engine, version_compatible=True)
    for version in ((10, 3, 0), (10, 7, 0), (11, 4, 0)):
        assert check_engine(engine, replace(ORIN, tensorrt=version)).precision == "fp16"
    with pytest.raises(EnvironmentProblem, match="never on earlier ones"):
        check_engine(engine, replace(ORIN, tensorrt=(10, 2, 0)))


@pytest.mark.parametrize(
    ("level", "machine", "match"),
    [
        ("none", Machine((10, 3, 0), (8, 7), "Orin NX"), r"was built on Orin \(.*this machine has Orin NX"),
        ("none", Machine((10, 3, 0), (8, 9), "Orin"), "other compute capability"),
        ("same", Machine((10, 3, 0), (8, 9), "Orin"), "other compute capability"),
        ("ampere+", Machine((10, 3, 0), (7, 5), "T4"), r"8\.0 or later"),
    ],
)
def test_another_gpu_is_refused(engine: Path, level: str, machine: Machine, match: str) -> None:
    with_options(engine, hardware_compatibility=level)
    with pytest.raises(EnvironmentProblem, match=match):
        check_engine(engine, machine)


@pytest.mark.parametrize(
    ("level", "machine"),
    [("same", Machine((10, 3, 0), (8, 7), "Orin NX")), ("ampere+", Machine((10, 3, 0), (8, 9), "L4"))],
)
def test_a_gpu_with_which_the_engine_is_compatible_passes(engine: Path, level: str, machine: Machine) -> None:
    with_options(engine, hardware_compatibility=level)
    assert check_engine(engine, machine).device == "Orin"

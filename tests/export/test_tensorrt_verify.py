"""`make verify-tensorrt`: ends clearly where there is no TensorRT, and its report over the stand-ins says what was found."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export.tensorrt.kit import prepare_kit
from export.tensorrt.options import EngineOptions
from tests.export import tensorrt_stand_in as stand_in
from tests.export.tensorrt_networks import references_of, write_network

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "verify_tensorrt.py"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run the script with these arguments; return its exit code. The report goes to `tmp_path / "docs"`."""
    spec = importlib.util.spec_from_file_location("verify_tensorrt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path / "docs"), *arguments])
        return int(module.main())

    return run


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    files = {p: tmp_path / f"model.{p}.onnx" for p in ("fp32", "fp16")}
    for precision, path in files.items():
        write_network(path, precision)
    prepare_kit(tmp_path / "kit", files, references_of(files["fp32"]), options=EngineOptions(), remote="orin", warmup=0)
    return tmp_path / "kit"


def test_without_tensorrt_it_ends_at_the_first_step(
    verify: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it fails, as where it is not installed
    assert verify() == 3
    said = capsys.readouterr()
    assert "TensorRT is not available here" in said.err
    assert said.out == ""
    assert not (tmp_path / "docs").exists()


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA and TensorRT, as long as the test runs."""
    with stand_in.installed(monkeypatch, tmp_path / "cache"):
        yield


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide a package from who asks whether it is installed."""
    find = importlib.util.find_spec

    def hide(name: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))

    return hide


@pytest.mark.usefixtures("gpu")
def test_without_pytorch_it_says_how_a_kit_is_verified(
    verify: Callable[..., int], not_installed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    not_installed("torch")
    assert verify() == 3
    said = capsys.readouterr().err
    assert "torch cannot be imported here" in said
    assert "--system-site-packages" in said
    assert "--kit KIT" in said


@pytest.mark.usefixtures("gpu")
def test_a_device_without_onnx_runtime_measures_the_engines_alone(
    verify: Callable[..., int], kit: Path, tmp_path: Path, not_installed: Callable[[str], None]
) -> None:
    not_installed("onnxruntime")
    assert verify("--kit", str(kit), "--samples", "4") == 0
    found = json.loads((tmp_path / "docs" / "tensorrt_report.json").read_text(encoding="utf-8"))
    assert set(found["against"]["latencies"]) == {"fp32", "fp16"}
    assert "ONNX Runtime is not installed here" in (tmp_path / "docs" / "tensorrt_report.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_fails_is_told_and_the_report_of_an_earlier_build_is_not_taken_for_it(
    verify: Callable[..., int], kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p: tmp_path / f"model.{p}.onnx" for p in ("fp32", "fp16")}
    references = references_of(files["fp32"])
    write_network(files["fp16"], "fp16", head=1.5)
    prepare_kit(kit, files, references, options=EngineOptions(), warmup=0)
    (kit / "report.json").write_text('{"schema_version": 1, "engines": {}}', encoding="utf-8")
    assert verify("--kit", str(kit), "--samples", "4") == 5
    assert "edge differs" in capsys.readouterr().err
    found = json.loads((tmp_path / "docs" / "tensorrt_report.json").read_text(encoding="utf-8"))
    assert list(found["kit"]["engines"]) == ["fp32"]
    page = (tmp_path / "docs" / "tensorrt_report.md").read_text(encoding="utf-8")
    assert "| fp16 | no: the exported network does not compute" in page


@pytest.mark.usefixtures("gpu")
def test_it_reports_engines_refusals_and_measurements(verify: Callable[..., int], kit: Path, tmp_path: Path) -> None:
    assert verify("--kit", str(kit), "--samples", "4") == 0
    found = json.loads((tmp_path / "docs" / "tensorrt_report.json").read_text(encoding="utf-8"))
    assert list(found["kit"]["engines"]) == ["fp32", "fp16"]
    assert len(found["checks"]) == 9  # both engines pass, and seven that are foreign, damaged or old are refused
    assert [check["check"] for check in found["checks"] if not check["held"]] == []
    assert "SHA-256 differs" in found["checks"][2]["said"]
    assert "9.9.9.9" in found["checks"][5]["said"]
    assert "exported anew since" in found["checks"][8]["said"]
    assert set(found["against"]["latencies"]) == {"fp32", "fp16", found["against"]["onnxruntime"]}
    page = (tmp_path / "docs" / "tensorrt_report.md").read_text(encoding="utf-8")
    assert "Stand-in GPU (compute capability 8.7), TensorRT 10.3.0" in page
    assert "79% fp16, 21% fp32" in page  # 11 and 3 of 14 ends of layers
    assert sorted(path.name for path in kit.iterdir()) == [
        "kit.json",
        "model.fp16.onnx",
        "model.fp32.onnx",
        "references.npz",
    ]

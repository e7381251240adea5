"""`make verify-tensorrt`: ends clearly where there is no TensorRT, and its report over the stand-ins says what was found."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.tensorrt import api, cuda
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


def test_it_reports_engines_refusals_and_measurements(
    verify: Callable[..., int], kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart = stand_in.Cudart()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt_module())
    monkeypatch.setattr(cuda, "library", lambda: cudart)
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "cache"))
    api.log.cache_clear()
    assert verify("--kit", str(kit), "--samples", "4") == 0
    api.log.cache_clear()
    found = json.loads((tmp_path / "docs" / "tensorrt_report.json").read_text(encoding="utf-8"))
    assert list(found["kit"]["engines"]) == ["fp32", "fp16"]
    assert len(found["checks"]) == 8  # both engines pass, and six that are foreign or damaged are refused
    assert [check["check"] for check in found["checks"] if not check["held"]] == []
    assert "SHA-256 differs" in found["checks"][2]["said"]
    assert "9.9.9.9" in found["checks"][5]["said"]
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

"""Which runtime opens which ONNX file. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from export.onnx_metadata import onnx_metadata
from export.sessions.onnx import OnnxSession
from export.sessions.openvino import OpenVinoSession


def open_onnx(path: Path, provider: str = "cpu", threads: int = 0) -> OnnxSession | OpenVinoSession:
    """Load an ONNX file: in ONNX Runtime, but one in bfloat16 in OpenVINO where a CPU is to run it.

    ONNX Runtime has no convolution in bfloat16 on CPUs, OpenVINO has, and reads the same file. Raises what the sessions raise.
    """
    if provider == "cpu" and path.is_file() and _precision(path) == "bf16":
        return OpenVinoSession(path, "bf16", threads)
    return OnnxSession(path, provider, threads)


def _precision(path: Path) -> str:
    return str(onnx_metadata(path).get("precision", "fp32"))

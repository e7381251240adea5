"""Runtimes, started in processes of their own: one whose libraries are broken may take its process with it."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.doctor.finding import Finding
from export.doctor.packages import installed
from export.machine.files import folders, read_text

_LONGEST_S = 20.0
_PROBES = {
    "onnxruntime": """
import ctypes, json, pathlib, sys
import onnxruntime
told = {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers(), "broken": {}}
capi = pathlib.Path(onnxruntime.__file__).parent / "capi"
for provider, library in (("CUDAExecutionProvider", "cuda"), ("TensorrtExecutionProvider", "tensorrt")):
    if sys.argv[1] == "gpu" and provider in told["providers"]:
        getattr(onnxruntime, "preload_dlls", lambda: None)()
        try:
            for name in ("shared", library):
                ctypes.CDLL(str(capi / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
        except OSError as error:
            told["broken"][provider] = str(error)
print(json.dumps(told))
""",
    "tensorrt": "import json, tensorrt\nprint(json.dumps({'version': tensorrt.__version__}))",
    "openvino": """
import json, openvino
print(json.dumps({"version": openvino.__version__.split("-")[0], "devices": openvino.Core().available_devices}))
""",
}
_SHORT = {"CPUExecutionProvider": "CPU", "CUDAExecutionProvider": "CUDA", "TensorrtExecutionProvider": "TensorRT"}


def runtime_findings(root: Path, *, gpu: bool, jetson: bool) -> Iterator[Finding]:
    """Yield for each runtime whether it starts, and on what it runs."""
    told = probe(gpu=gpu)
    yield from _onnxruntime(told.get("onnxruntime"), gpu=gpu, jetson=jetson)
    yield from _tensorrt(root, told.get("tensorrt"), gpu=gpu or jetson)
    yield from _openvino(told.get("openvino"))


def probe(*, gpu: bool) -> dict[str, dict[str, Any]]:
    """Return what each runtime that can be found tells of itself, or `error`; all are started at once."""
    home = Path(__file__).resolve().parents[2]  # -c looks in the working folder first, which may hold anything
    running = {
        name: subprocess.Popen(  # noqa: S603 -- our own code
            [sys.executable, "-c", code, "gpu" if gpu else "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
        )
        for name, code in _PROBES.items()
        if importlib.util.find_spec(name) is not None
    }
    return {name: _answer(process) for name, process in running.items()}


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        try:
            out, err = process.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"error": f"did not start within {_LONGEST_S:.0f} s"}
    if process.returncode != 0 or not out.strip():
        last = err.strip().splitlines()[-1:] or [f"its process ended with code {process.returncode}"]
        return {"error": last[0]}
    answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return answer


def _onnxruntime(told: Mapping[str, Any] | None, *, gpu: bool, jetson: bool) -> Iterator[Finding]:
    name = "onnxruntime-gpu" if gpu and not jetson else "onnxruntime"
    if told is None or "error" in told:
        yield _runtime(
            "ONNX Runtime",
            "note" if told is None else "fault",
            "not installed; bench and export need it" if told is None else f"cannot be imported: {told['error']}",
            f"pip install {name}" if told is None else f"pip install --force-reinstall {name}",
        )
        return
    providers = [_SHORT.get(each, each.removesuffix("ExecutionProvider")) for each in told["providers"]]
    found = f"{told['version']} on {', '.join(providers)}"
    for provider, error in told["broken"].items():
        yield _runtime(
            f"ONNX Runtime on {_SHORT[provider]}",
            "warning",
            f"this build has it, but its library does not load: {error}",
            "pip install 'bmtas[gpu]' 'onnxruntime-gpu[cuda,cudnn]'" if not jetson else None,
        )
    blind = gpu and not {"CUDAExecutionProvider", "TensorrtExecutionProvider"} & set(told["providers"])
    if not blind:
        yield _runtime("ONNX Runtime", "ok", found)
    elif jetson:
        yield _runtime(
            "ONNX Runtime",
            "note",
            f"{found}; the index has no build for a Jetson's GPU, engines of TensorRT need none",
            "bmtas build model.onnx, and bmtas bench on the engine",
        )
    else:
        fix = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        yield _runtime("ONNX Runtime", "warning", f"{found}; this machine has a GPU, which this build cannot use", fix)


def _tensorrt(root: Path, told: Mapping[str, Any] | None, *, gpu: bool) -> Iterator[Finding]:
    if told is not None and "error" not in told:
        yield _runtime("TensorRT", "ok", f"{told['version']}")
        return
    if told is not None:
        fix = f"pip install --force-reinstall tensorrt=={version}" if (version := installed("tensorrt")) else None
        level = "fault" if gpu else "warning"
        yield _runtime("TensorRT", level, f"cannot be imported: {told['error']}", fix)
        return
    hidden = system_tensorrt(root)
    if hidden is not None:
        yield _hidden(hidden)
    elif gpu:
        yield _runtime(
            "TensorRT",
            "note",
            "not installed; bmtas build needs it",
            "sudo apt install nvidia-jetpack" if (root / "etc/nv_tegra_release").exists() else "pip install tensorrt",
        )
    else:
        yield _runtime("TensorRT", "ok", "not installed, and without an NVIDIA GPU not needed")


def system_tensorrt(root: Path) -> Path | None:
    """Return the folder of a TensorRT that the system has (JetPack, apt)."""
    return next((path for path in folders(root, "usr/lib", "python3*/dist-packages/tensorrt") if path.is_dir()), None)


def _hidden(place: Path) -> Finding:
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    theirs = place.parent.parent.name
    if re.fullmatch(r"python3\.\d+", theirs) and theirs != here:
        return _runtime(
            "TensorRT",
            "warning",
            f"the system's is in {place}, for {theirs}; this is {here}, which cannot use it",
            f"{theirs} -m venv --system-site-packages .venv && .venv/bin/pip install bmtas",
        )
    settings = Path(sys.prefix) / "pyvenv.cfg"
    closed = "include-system-site-packages = true" not in (read_text(settings) or "").lower()
    if sys.prefix != sys.base_prefix and closed:
        return _runtime(
            "TensorRT",
            "warning",
            f"the system's is in {place}, but this virtual environment was made without --system-site-packages and does not see it",
            f"sed -i 's/include-system-site-packages = false/include-system-site-packages = true/' {shlex.quote(str(settings))}",
        )
    return _runtime(
        "TensorRT",
        "warning",
        f"the system's is in {place}, where this Python does not look",
        f"/usr/bin/{here} -m venv --system-site-packages .venv",
    )


def _openvino(told: Mapping[str, Any] | None) -> Iterator[Finding]:
    if told is None:
        return  # the extra tells that it is not installed
    if "error" in told:
        yield _runtime(
            "OpenVINO", "fault", f"cannot be imported: {told['error']}", "pip install --force-reinstall openvino"
        )
    else:
        yield _runtime("OpenVINO", "ok", f"{told['version']} on {', '.join(told['devices'])}")


def _runtime(name: str, level: Any, found: str, fix: str | None = None) -> Finding:
    return Finding(area="runtimes", name=name, level=level, found=found, fix=fix)

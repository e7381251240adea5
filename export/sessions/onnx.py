"""ONNX Runtime sessions that run where they were asked to, or say that they do not. Needs no torch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem, UsageError, nearest
from bmtas.extras import require
from export.metadata import read_metadata
from export.sessions.protocol import Array, OneImage, TensorSpec

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxSession(OneImage):
    """A loaded ONNX file on one execution provider."""

    def __init__(self, source: Path | bytes, provider: str = "cpu", threads: int = 0) -> None:
        """Load `source`, a file or the content of one. `threads` bounds the threads of an operator on the CPU; 0 lets the runtime choose.

        Raises UsageError for an unknown provider or a file that is no ONNX model, EnvironmentProblem if the runtime is
        missing or falls back to another provider than the one asked for.
        """
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider {provider!r}; {nearest(provider, PROVIDERS)}")
        self.where = str(source) if isinstance(source, Path) else "the ONNX model in memory"
        if isinstance(source, Path) and not source.is_file():
            raise UsageError(f"{source} does not exist; `bmtas export` writes ONNX files")
        runtime = require("onnxruntime", "host")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Threads that go on spinning after a run would take the cores from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Asked for a provider that it was built without, the runtime only warns and takes another.
        if PROVIDERS[provider] not in runtime.get_available_providers():
            raise _fell_back(provider, f"this build has only {', '.join(runtime.get_available_providers())}")
        content = str(source) if isinstance(source, Path) else source
        try:
            self._session = runtime.InferenceSession(content, options, providers=[PROVIDERS[provider]])
        except Exception as error:  # noqa: BLE001 -- the runtime's exceptions have no common public class
            raise UsageError(
                f"{self.where} cannot be loaded by ONNX Runtime: {error}; "
                "if it was cut short or changed, export it again"
            ) from None
        got = self._session.get_providers()[0]
        if got != PROVIDERS[provider]:
            raise _fell_back(provider, f"it took {got} instead, because the provider's libraries do not load")
        self.provider: str = got
        self.runtime = f"onnxruntime {runtime_version()}"
        self.inputs = {
            i.name: TensorSpec(i.name, tuple(i.shape), _TYPES.get(i.type, i.type)) for i in self._session.get_inputs()
        }
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for inputs by name."""
        values = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, values, strict=True))

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the file; empty for a file of other origin."""
        entries = self._session.get_modelmeta().custom_metadata_map
        return read_metadata(entries, self.where)


def runtime_version() -> str:
    """Return the version of the ONNX Runtime distribution that is installed, whichever variant it is."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    import onnxruntime  # a build of another name, as JetPack has them

    return str(onnxruntime.__version__)


def _fell_back(provider: str, reason: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"ONNX Runtime cannot run on {PROVIDERS[provider]} here: {reason}. Use --provider cpu, or install what the "
        f"{provider} provider needs"
    )

"""ONNX Runtime sessions that run where they were asked to, or say that they do not. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.errors import EnvironmentProblem, UsageError, nearest
from bmtas.extras import require

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxSession:
    """A loaded ONNX file on one execution provider."""

    def __init__(self, path: Path, provider: str = "cpu", threads: int = 0) -> None:
        """Load `path`. `threads` bounds the threads of an operator on the CPU; 0 lets the runtime choose.

        Raises UsageError for an unknown provider or a file that is no ONNX model, EnvironmentProblem if the runtime is
        missing or falls back to another provider than the one asked for.
        """
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider {provider!r}; {nearest(provider, PROVIDERS)}")
        if not path.is_file():
            raise UsageError(f"{path} does not exist; `bmtas export` writes ONNX files")
        runtime = require("onnxruntime", "host")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Threads that go on spinning after a run would take the cores from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Asked for a provider that it was built without, the runtime only warns and takes another.
        if PROVIDERS[provider] not in runtime.get_available_providers():
            raise _fell_back(provider, f"this build has only {', '.join(runtime.get_available_providers())}")
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
        except Exception as error:  # noqa: BLE001 -- the runtime's exceptions have no common public class
            raise UsageError(f"{path} cannot be loaded by ONNX Runtime: {error}") from None
        got = self._session.get_providers()[0]
        if got != PROVIDERS[provider]:
            raise _fell_back(provider, f"it took {got} instead, because the provider's libraries do not load")
        self.provider = got
        self.input_name: str = self._session.get_inputs()[0].name
        self.input_shape = tuple(self._session.get_inputs()[0].shape)
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the raw outputs by name for `image` (N, 3, H, W)."""
        values = self._session.run(None, {self.input_name: image})
        return dict(zip(self.outputs, values, strict=True))

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the file; empty for a file of other origin."""
        entries = self._session.get_modelmeta().custom_metadata_map
        return {k.removeprefix("bmtas."): json.loads(v) for k, v in entries.items() if k.startswith("bmtas.")}


def _fell_back(provider: str, reason: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"ONNX Runtime cannot run on {PROVIDERS[provider]} here: {reason}. Use --provider cpu, or install what the "
        f"{provider} provider needs"
    )

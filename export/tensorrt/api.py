"""The door to NVIDIA's module: imported when asked for, with one log that keeps what TensorRT says. Needs no torch."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

from bmtas.errors import EnvironmentProblem
from export.tensorrt.plan import Version, parse_version

_KEPT_MESSAGES = 50
ADVICE = (
    "TensorRT engines are built on the machine that runs them: install TensorRT there (pip install tensorrt on a PC with an NVIDIA "
    "GPU; on Jetson it comes with JetPack, so make the virtual environment with --system-site-packages), take the exported "
    "ONNX files there (`bmtas export --format tensorrt --remote USER@HOST` writes what is needed) and run `bmtas build`"
)


def require_tensorrt() -> Any:
    """Return the module `tensorrt`. Raises EnvironmentProblem with the remedy where it cannot be imported."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: the bindings are there, the libraries are not
        raise EnvironmentProblem(f"TensorRT is not available here ({error}). {ADVICE}") from None
    return tensorrt


def tensorrt_version() -> Version:
    """Return the version of TensorRT. Raises EnvironmentProblem where it is missing."""
    trt = require_tensorrt()
    return parse_version(str(trt.__version__))


@functools.cache
def log() -> Any:
    """Return the log of this process, a `tensorrt.ILogger`; `take()` gives what errors and warnings have come since.

    There is one, because TensorRT keeps to the first that it is given.
    """
    trt = require_tensorrt()
    kept = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING)

    base: Any = trt.ILogger

    class Log(base):
        def __init__(self) -> None:
            base.__init__(self)
            self._said: deque[str] = deque(maxlen=_KEPT_MESSAGES)

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                self._said.append(msg.strip())

        def take(self) -> list[str]:
            said = list(self._said)
            self._said.clear()
            return said

    return Log()


def told(messages: list[str], most: int = 3) -> str:
    """Return the last `most` messages in one line, for an error."""
    return "; ".join(messages[-most:]) or "it told no reason"

"""Packages that only some installs have: imported when needed, or the message says what to install."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from bmtas.errors import EnvironmentProblem

# A device that only measures needs no extra, which would bring PyTorch; and the two variants of ONNX Runtime overwrite each other.
_REMEDIES = {
    "onnxruntime": "pip install onnxruntime (or onnxruntime-gpu for an NVIDIA GPU; never both)",
    "jinja2": "pip install jinja2",  # for reports, which a device may write without the rest of its extra
    "pynvml": "pip install nvidia-ml-py",
}


def own_version() -> str:
    """Return the version of bmtas that is installed."""
    return importlib.metadata.version("bmtas")


def require(module: str, extra: str) -> ModuleType:
    """Return the module called `module` (dotted), which the extra `extra` of bmtas brings.

    Raises EnvironmentProblem with the command that installs it where it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = _REMEDIES.get(module.split(".")[0], f"pip install 'bmtas[{extra}]', or make setup in a clone")
        raise EnvironmentProblem(
            f"this needs the module {module!r}, which cannot be imported here ({error}); install it with: {remedy}"
        ) from error

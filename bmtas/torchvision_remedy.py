"""Makes `import torchvision` work beside a CPU-only PyTorch; does nothing where it works by itself.

The Linux wheels of torchvision on the package index are CUDA builds: their extension library needs the CUDA libraries of
PyTorch. Beside a CPU-only PyTorch it does not load, torchvision then registers a fake kernel for
the operator `torchvision::nms` that nobody defined, and the import ends with `operator torchvision::nms does not
exist`. Whatever imports torchvision when it is installed (torchmetrics, timm, lightning) fails with it. Defining the
schemas of the two operators is all that the import lacks. The operators themselves stay unavailable and say so when
they are called; bmtas calls neither.

Call `import_torchvision()` before anything that imports torchvision.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from bmtas.extras import require

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library object that is collected takes its operators with it, so it lives as long as the process.
_fragment: Any = None
_lock = threading.RLock()  # threads that load images may all need it at once


def import_torchvision() -> ModuleType:
    """Return torchvision, importable whatever build of PyTorch stands beside it.

    Raises EnvironmentProblem where torchvision is not installed.
    """
    with _lock:
        if _needs_remedy():
            _define_operators()
        return require("torchvision", "host")


def remedy_active() -> bool:
    """Return whether this process runs with the operators' schemas defined here."""
    return _fragment is not None


def _needs_remedy() -> bool:
    """Whether torchvision is there, its extension does not load, and nobody has defined its operators yet."""
    module = sys.modules.get("torchvision")
    if remedy_active() or (module is not None and hasattr(module, "models")):
        return False
    spec = importlib.util.find_spec("torchvision")  # finds without executing it
    if spec is None or spec.origin is None:
        return False
    torch = require("torch", "host")
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:  # a CUDA build beside a CPU-only PyTorch: libtorch_cuda.so is missing
            continue
    return not hasattr(torch.ops.torchvision, "nms")


def _define_operators() -> None:
    global _fragment
    torch = require("torch", "host")
    _fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            _fragment.define(name + _SCHEMA)
    # A failed import leaves half-initialised submodules behind, which the next import would pick up.
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]

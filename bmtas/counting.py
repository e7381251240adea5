"""Multiply-adds and parameters of modules, counted by fvcore and remembered by content."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bmtas.errors import BmtasError
from bmtas.extras import require
from bmtas.files import cache_folder, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# fvcore's own operator classes that are multiply-adds. It also counts normalisation, pooling and resizing, in
# operations that are no multiply-adds; those are left out.
_MADDS_OPERATORS = ("conv", "linear", "addmm", "matmul")
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Count:
    """What one application of a module costs: multiply-adds for the given input, and its trainable parameters."""

    madds: int
    params: int


def count_module(module: nn.Module, inputs: Sequence[Tensor]) -> Count:
    """Count `module` on `inputs` (their values do not matter), from the cache if its content was counted before."""
    path = cache_folder() / "counts" / f"{_content_key(module, inputs)}.json"
    remembered = _remembered(path)
    if remembered is not None:
        return remembered
    count = Count(_madds(module, inputs), sum(p.numel() for p in module.parameters()))
    with contextlib.suppress(OSError, BmtasError):  # a cache that cannot be written costs time, nothing else
        write_json(path, {"schema_version": _SCHEMA_VERSION, "madds": count.madds, "params": count.params})
    return count


def _remembered(path: Path) -> Count | None:
    """Return the count kept in `path`, or None: a cache that cannot be read costs time, nothing else."""
    try:
        data = read_json(path, _SCHEMA_VERSION)
    except (OSError, BmtasError):
        return None
    madds, params = data.get("madds"), data.get("params")
    valid = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (madds, params))
    return Count(madds, params) if valid else None  # type: ignore[arg-type] # both are int by now


def _madds(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    with warnings.catch_warnings():
        # fvcore scripts and traces at import and while counting, which new PyTorch versions call deprecated.
        warnings.simplefilter("ignore")
        analysis = require("fvcore.nn", "host").FlopCountAnalysis(module, tuple(inputs))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        by_operator = analysis.by_operator()
    return int(sum(by_operator[name] for name in _MADDS_OPERATORS))


def _content_key(module: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Hash of all that decides the count: structure, parameter shapes, settings, code, input shapes, versions."""
    content = {
        "structure": repr(module),
        "parameters": [(name, list(p.shape)) for name, p in module.named_parameters()],
        "settings": [(name, _settings(part)) for name, part in module.named_modules()],
        "sources": sorted({_source(kind) for part in module.modules() for kind in _own_classes(type(part))}),
        "inputs": [list(x.shape) for x in inputs],
        "versions": [torch.__version__, importlib.metadata.version("fvcore")],
        "operators": _MADDS_OPERATORS,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _settings(part: nn.Module) -> dict[str, str]:
    """Return the plain attributes of a module, which decide what it computes whether it prints them or not."""
    plain = (bool, int, float, str, tuple, list)
    return {
        k: repr(v) for k, v in vars(part).items() if isinstance(v, plain) and not k.startswith("_") and k != "training"
    }


def _own_classes(kind: type) -> Iterator[type]:
    """Yield the class and those it inherits code from, short of PyTorch's common base, which the version stands for."""
    for base in kind.__mro__:
        if base is nn.Module:
            return
        yield base


@functools.cache
def _source(kind: type) -> str:
    try:
        return f"{kind.__module__}.{kind.__qualname__}: {inspect.getsource(kind)}"
    except (OSError, TypeError):  # built without a source file; its name must do
        return f"{kind.__module__}.{kind.__qualname__}"

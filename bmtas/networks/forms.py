"""Which form each layer of a supergraph takes: measured on the device, remembered per machine.

Several candidates in one pass save calls and read their input once, but their activations together may leave the cache.
Which of the two weighs more depends on the layer, the device and its threads, so it is measured.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmtas.errors import BmtasError
from bmtas.files import cache_folder, read_json, write_json
from bmtas.networks.candidates import FORMS, FUSED, SEQUENTIAL, Candidates

_SCHEMA_VERSION = 1
_WARM_UPS = 1


def chosen_forms(
    name: str, stem: nn.Module, layers: Sequence[Candidates], images: Tensor, repetitions: int
) -> tuple[str, ...]:
    """Return the faster form of each layer, from the cache if this machine has measured the same before.

    `name` is the backbone's; `images` are (N, 3, H, W) on the device on which the search will run, and in its memory
    layout. Neither parameters nor statistics are touched.
    """
    content = {
        "backbone": name,
        "layers": hashlib.sha256(repr((stem, list(layers))).encode()).hexdigest(),
        "images": [list(images.shape), str(images.dtype), images.is_contiguous(memory_format=torch.channels_last)],
        "autocast": torch.is_autocast_enabled(images.device.type) and str(torch.get_autocast_dtype(images.device.type)),
        "device": device_name(images.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "forms" / f"{key}.json"
    remembered = _remembered(path, layers)
    if remembered is not None:
        return remembered
    seconds = _measured(stem, layers, images, repetitions)
    forms = tuple(min(found, key=lambda form: found[form]) for found in seconds)
    with contextlib.suppress(OSError, BmtasError):  # a cache that cannot be written costs time, nothing else
        write_json(path, {"schema_version": _SCHEMA_VERSION, **content, "forms": forms, "seconds": seconds})
    return forms


def device_name(device: torch.device) -> str:
    """Return what the device is called by its maker, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _remembered(path: Path, layers: Sequence[Candidates]) -> tuple[str, ...] | None:
    """Return the forms kept in `path`, or None: a cache that cannot be used costs time, nothing else."""
    try:
        data: Any = read_json(path, _SCHEMA_VERSION).get("forms")
    except (OSError, BmtasError):
        return None
    if not isinstance(data, list) or len(data) != len(layers) or any(form not in FORMS for form in data):
        return None
    impossible = any(form == FUSED and layer.why_not_fused() for form, layer in zip(data, layers, strict=True))
    return None if impossible else tuple(data)


def _measured(
    stem: nn.Module, layers: Sequence[Candidates], images: Tensor, repetitions: int
) -> list[dict[str, float]]:
    """Return, per layer, the median seconds of one pass forward and backward in each form that it can take."""
    found = []
    with torch.no_grad():
        x = copy.deepcopy(stem)(images)
    for layer in layers:
        twin = copy.deepcopy(layer)  # its gradients and statistics are nobody's
        forms = [SEQUENTIAL] if twin.why_not_fused() else list(FORMS)
        times: dict[str, list[float]] = {form: [] for form in forms}
        for turn in range(repetitions + _WARM_UPS):
            for form in forms if len(forms) > 1 else []:
                twin.form = form
                seconds = _one_pass(twin, x)
                times[form] += [seconds] if turn >= _WARM_UPS else []
        found.append({form: statistics.median(taken) if taken else 0.0 for form, taken in times.items()})
        with torch.no_grad():
            x = twin[0](x)
    return found


def _one_pass(layer: Candidates, x: Tensor) -> float:
    """Return the seconds of a mixture of all candidates with the gradients of its input and its parameters."""
    for parameter in layer.parameters():
        parameter.grad = None
    x = x.detach().requires_grad_()
    weights = [1 / len(layer)] * len(layer)
    mix = torch.tensor(weights, device=x.device)
    _wait(x.device)
    start = time.perf_counter()
    y = layer(x, mix, weights)
    torch.autograd.backward(y, torch.ones_like(y))
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

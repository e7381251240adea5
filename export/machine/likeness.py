"""Whether times of two machines may be compared, and if not, what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from export.machine.model import Identity, Jetson, Told

# What decides about times, in the words of a reader.
_CPU = {
    "model": "the processor",
    "architecture": "the architecture",
    "usable": "the number of usable CPUs",
    "quota_cpus": "the control group's quota in CPUs",
    "features": "the vector instructions",
    "governor": "the CPU governor",
    "limit_min_mhz": "the lowest CPU clock allowed in MHz",
    "limit_max_mhz": "the highest CPU clock allowed in MHz",
    "boost": "whether the CPU may boost",
}
_GPU = {
    "name": "the GPU",
    "compute_capability": "the compute capability",
    "memory_mib": "the GPU's memory in MiB",
    "driver": "the NVIDIA driver",
    "cuda": "the driver's CUDA",
    "power_limit_w": "the GPU's power limit in W",
    "mig": "whether the GPU is partitioned (MIG)",
    "max_graphics_mhz": "the highest GPU clock in MHz",
    "max_memory_mhz": "the highest clock of the GPU's memory in MHz",
    "application_graphics_mhz": "the GPU clock that was set, in MHz",
    "application_memory_mhz": "the clock of the GPU's memory that was set, in MHz",
}
_JETSON = {
    "model": "the board",
    "l4t": "L4T",
    "clocks_fixed": "whether the clocks are fixed",
    "gpu_min_mhz": "the lowest GPU clock allowed in MHz",
    "gpu_max_mhz": "the highest GPU clock allowed in MHz",
    "emc_max_mhz": "the highest memory clock allowed in MHz",
}


def unlike(a: Identity, b: Identity, runtime: str | Collection[str] | None = None) -> list[str]:
    """Return in sentences what differs between two machines so that their times cannot be compared; none if they are alike.

    Hardware, usable CPUs, power mode, limits of clocks and power, governor, driver and runtimes count; the Python, the kernel, the
    container and the very card (its UUID) do not. Of the runtimes only `runtime` counts, one or several as `Session.runtime` tells
    them (onnxruntime, or onnxruntime 1.20.0); where none is named, those that both machines have.
    """
    found = _differences(_CPU, a.cpu, b.cpu)
    if len(a.gpus) != len(b.gpus):
        found.append(f"the number of GPUs differs: {len(a.gpus)} and {len(b.gpus)}")
    for one, other in zip(a.gpus, b.gpus, strict=False):
        found += _differences(_GPU, one, other)
    if (a.jetson is None) != (b.jetson is None):
        found.append(f"only one is a Jetson: {(a.jetson or b.jetson or a.cpu).model}")
    elif a.jetson is not None and b.jetson is not None:
        found += _difference("the power mode", _mode(a.jetson), _mode(b.jetson))
        found += _differences(_JETSON, a.jetson, b.jetson)
    counting = {*a.runtimes} & {*b.runtimes} if runtime is None else _names(runtime)
    for name in sorted(counting):
        found += _difference(name, a.runtimes.get(name), b.runtimes.get(name))
    found += _difference("the memory in GiB", _gib(a), _gib(b))
    return list(dict.fromkeys(found))


def device_key(identity: Identity) -> str:
    """Return a short text that is equal for two machines where `unlike` finds nothing between them, versions of runtimes apart."""
    jetson = identity.jetson
    told = {
        "cpu": _told(_CPU, identity.cpu),
        "gpus": [_told(_GPU, gpu) for gpu in identity.gpus],
        "jetson": None if jetson is None else [_mode(jetson), _told(_JETSON, jetson)],
        "memory_gib": _gib(identity),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _names(runtime: str | Collection[str]) -> set[str]:
    return {each.split()[0] for each in ([runtime] if isinstance(runtime, str) else runtime)}


def _told(words: dict[str, str], part: Told) -> dict[str, Any]:
    return {name: getattr(part, name) for name in words}


def _mode(jetson: Jetson) -> str | int | None:
    return jetson.power_mode or jetson.power_mode_id


def _differences(words: dict[str, str], a: Told, b: Told) -> list[str]:
    return [line for name, word in words.items() for line in _difference(word, getattr(a, name), getattr(b, name))]


def _difference(word: str, a: Any, b: Any) -> list[str]:
    return [] if a == b else [f"{word} differs: {_shown(a)} and {_shown(b)}"]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "unknown" if value is None else str(value)


def _gib(identity: Identity) -> int | None:
    """Return the memory rounded to GiB: what the kernel keeps for itself changes from one to the next."""
    return None if identity.memory_mib is None else round(identity.memory_mib / 1024)

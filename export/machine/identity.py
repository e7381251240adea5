"""What this machine is: hardware, power mode, limits of clocks, system and runtimes. Reads only, in milliseconds; needs no torch."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

from export.machine.cpu import read_cpu
from export.machine.files import read_text
from export.machine.jetson import read_jetson
from export.machine.likeness import device_key, unlike
from export.machine.model import Cpu, Gpu, Identity, Jetson, System
from export.machine.nvml import read_gpus

__all__ = ["Identity", "device_key", "identify", "unlike"]

RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "cuda": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11"),
}
"""The distributions that bring each runtime."""


def identify(root: Path = Path("/")) -> Identity:
    """Return what this machine is. `root` is where /proc, /sys, /etc and /var are read; what cannot be read is None, and `unavailable` says why."""
    unavailable: dict[str, str] = {}
    cpu = read_cpu(root, unavailable)
    gpus = read_gpus(root, unavailable)
    jetson = read_jetson(root, cpu, unavailable)
    return Identity(
        title=_title(cpu, gpus, jetson),
        cpu=cpu,
        gpus=gpus,
        jetson=jetson,
        system=_system(root),
        runtimes=runtimes(root),
        container=container(root),
        memory_mib=_memory_mib(root, unavailable),
        unavailable=unavailable,
    )


def runtimes(root: Path = Path("/")) -> dict[str, str]:
    """Return the version of each runtime that is installed, by its metadata; CUDA's also from the toolkit in /usr/local/cuda."""
    found = {}
    for name, distributions in RUNTIMES.items():
        for distribution in distributions:
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    toolkit = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', _toolkit(root))
    if toolkit is not None:
        found.setdefault("cuda", toolkit[1])
    return found


def container(root: Path = Path("/")) -> str:
    """Return in which kind of container this process runs: docker, podman, kubernetes, other or none."""
    groups = read_text(root / "proc/1/cgroup") or ""
    if "kubepods" in groups or (root / "var/run/secrets/kubernetes.io").exists():
        return "kubernetes"
    if (root / "run/.containerenv").exists() or "libpod" in groups:
        return "podman"
    if (root / ".dockerenv").exists() or "docker" in groups:
        return "docker"
    return "other" if re.search(r"lxc|containerd|garden", groups) else "none"


def _title(cpu: Cpu, gpus: tuple[Gpu, ...], jetson: Jetson | None) -> str:
    processor = f"{cpu.model or cpu.architecture}, {cpu.usable} CPU{'s' if cpu.usable != 1 else ''}"
    if jetson is not None:
        mode = jetson.power_mode or (None if jetson.power_mode_id is None else f"power mode {jetson.power_mode_id}")
        board = re.sub(r"^NVIDIA |( Engineering Reference)? (Developer Kit|Development Kit)\b", "", jetson.model)
        return ", ".join([board, *([mode] if mode else [])])
    names = [gpu.name for gpu in gpus if gpu.name]
    counted = [f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names)]
    return " + ".join([*counted, processor])


def _system(root: Path) -> System:
    release = read_text(root / "etc/os-release") or ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    return System(
        os=found[1] if found else platform.system() or None,
        kernel=platform.release(),
        python=platform.python_version(),
    )


def _memory_mib(root: Path, unavailable: dict[str, str]) -> int | None:
    text = read_text(root / "proc/meminfo", unavailable, "memory_mib")
    found = re.search(r"^MemTotal:\s+(\d+) kB", text or "", re.MULTILINE)
    if text is not None and found is None:
        unavailable["memory_mib"] = f"{root / 'proc/meminfo'} names no MemTotal"
    return None if found is None else int(found[1]) // 1024


def _toolkit(root: Path) -> str:
    return read_text(root / "usr/local/cuda/version.json") or ""

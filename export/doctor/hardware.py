"""The machine: instructions, threads, GPU, power mode, clocks, and what can be sampled on it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from export.doctor.finding import Finding, Level
from export.machine.cpu import policies_of, usable_cpus
from export.machine.files import read_text
from export.machine.jetson import fastest_mode
from export.machine.model import Cpu, Gpu, Identity, Jetson
from export.machine.nvml import has_card, has_driver
from export.machine.sampler import sources_of

_OWN_WILL = ("intel_pstate", "amd-pstate-epp")
"""Drivers whose `powersave` still raises the clock under load."""


def hardware_findings(root: Path, machine: Identity) -> Iterator[Finding]:
    """Yield what was found of the machine, Jetson and GPU first."""
    yield Finding(area="machine", name="machine", level="ok", found=_summary(machine))
    yield from _instructions(machine.cpu)
    yield from _threads(machine.cpu)
    yield from _cpu_clocks(root, machine.cpu, jetson=machine.jetson is not None)
    if machine.jetson is not None:
        yield from _jetson(machine.jetson)
    yield from _driver(root, machine)
    for gpu in machine.gpus if machine.jetson is None else ():
        yield from _gpu(gpu)
    yield from _sensors(root)


def _summary(machine: Identity) -> str:
    where = f", in a container ({machine.container})" if machine.container != "none" else ""
    memory = "" if machine.memory_mib is None else f", {machine.memory_mib / 1024:.1f} GiB"
    return f"{machine.title}{memory}, {machine.system.os}{where}"


def _instructions(cpu: Cpu) -> Iterator[Finding]:
    has = set(cpu.features)
    level: Level
    if cpu.architecture in ("x86_64", "AMD64"):
        if "avx2" not in has:
            level, found = (
                "warning",
                "no AVX2: networks run several times slower on this processor than on one that has it",
            )
        elif not has & {"avx_vnni", "avx512_vnni", "amx_int8"}:
            level, found = (
                "note",
                f"{' '.join(cpu.features)}; no VNNI, so INT8 is seldom faster than FP32 on this processor",
            )
        else:
            level, found = "ok", " ".join(cpu.features)
    elif "asimd" in has and not has & {"asimddp", "i8mm"}:
        level, found = (
            "note",
            f"{' '.join(cpu.features)}; no dot products of INT8, which is then seldom faster than FP32",
        )
    else:
        level, found = "ok", " ".join(cpu.features) or "none told"
    yield Finding(area="machine", name="CPU instructions", level=level, found=found)


def _threads(cpu: Cpu) -> Iterator[Finding]:
    if cpu.quota_cpus is not None and cpu.quota_cpus < cpu.usable:
        whole = max(1, math.floor(cpu.quota_cpus))
        yield Finding(
            area="machine",
            name="CPU quota",
            level="warning",
            found=f"the control group grants the time of {cpu.quota_cpus:g} CPUs and shows {cpu.usable}: as many threads wait for each other",
            fix=f"bmtas bench --threads {whole}, or start the container with a greater --cpus",
        )
    if cpu.online is not None and cpu.usable < cpu.online:
        yield Finding(
            area="machine", name="CPU set", level="note", found=f"{cpu.usable} of {cpu.online} CPUs may be used"
        )
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        yield Finding(
            area="machine",
            name="OMP_NUM_THREADS",
            level="note",
            found=f"{threads}: PyTorch uses that many threads, whatever the machine has",
            fix="unset OMP_NUM_THREADS",
        )


def _cpu_clocks(root: Path, cpu: Cpu, *, jetson: bool) -> Iterator[Finding]:
    policies = policies_of(root, usable_cpus(root))
    driver = read_text(policies[0] / "scaling_driver") if policies else None
    fix = None if jetson else "sudo cpupower frequency-set -g performance"
    if cpu.governor is None:
        yield Finding(area="machine", name="CPU governor", level="ok", found=cpu_clock_reason(cpu))
    elif "powersave" in cpu.governor and driver not in _OWN_WILL:
        found = f"{cpu.governor}: the clock stays at its lowest"
        yield Finding(area="machine", name="CPU governor", level="warning", found=found, fix=fix)
    elif cpu.governor == "performance":
        yield Finding(area="machine", name="CPU governor", level="ok", found=cpu.governor)
    else:
        found = f"{cpu.governor}: the clock follows the load, so times begin slower than they go on"
        yield Finding(area="machine", name="CPU governor", level="note", found=found, fix=fix)
    if None not in (cpu.limit_max_mhz, cpu.hardware_max_mhz) and (cpu.limit_max_mhz or 0) < (cpu.hardware_max_mhz or 0):
        yield Finding(
            area="machine",
            name="CPU clock limit",
            level="note" if jetson else "warning",
            found=f"held at {cpu.limit_max_mhz:g} MHz of {cpu.hardware_max_mhz:g}",
            fix=None if jetson else f"sudo cpupower frequency-set -u {cpu.hardware_max_mhz:g}MHz",
        )


def cpu_clock_reason(cpu: Cpu) -> str:
    """Return what is told of clocks that the kernel does not govern."""
    return f"the kernel does not govern the clocks of {cpu.model or 'this processor'} here"


def _jetson(board: Jetson) -> Iterator[Finding]:
    derived = ", concluded from L4T" if board.jetpack_derived else ""
    yield Finding(
        area="machine",
        name="JetPack",
        level="ok" if board.l4t else "note",
        found=f"L4T {board.l4t or 'unknown'}, JetPack {board.jetpack or 'unknown'}{derived}",
    )
    fastest = fastest_mode(board.power_modes)
    mode = board.power_mode or ("unknown" if board.power_mode_id is None else str(board.power_mode_id))
    slower = fastest is not None and board.power_mode_id is not None and board.power_mode_id != fastest
    best = "" if not slower or fastest is None else f"; {board.power_modes[fastest]} is the fastest"
    yield Finding(
        area="machine",
        name="power mode",
        level="warning" if slower else "note" if mode == "unknown" else "ok",
        found=f"{mode}{best}",
        fix=f"sudo nvpmodel -m {fastest}" if slower else None,
    )
    if board.clocks_fixed is False:
        yield Finding(
            area="machine",
            name="clocks",
            level="note",
            found="follow the load, so times depend on what ran before",
            fix="sudo jetson_clocks",
        )


def _driver(root: Path, machine: Identity) -> Iterator[Finding]:
    """Yield whether a GPU that is there can be asked."""
    card = has_card(root) or (root / "proc/driver/nvidia/version").exists()
    if machine.container != "none" and card and not (root / "dev/nvidiactl").exists():
        by = "--device nvidia.com/gpu=all" if machine.container == "podman" else "--gpus all"
        found = "the machine has an NVIDIA GPU, and this container was started without it"
        yield Finding(area="machine", name="GPU", level="warning", found=found, fix=f"{machine.container} run {by} ...")
    elif card and not has_driver(root):
        found = "an NVIDIA card is there, but no driver runs for it"
        yield Finding(area="machine", name="GPU", level="warning", found=found, fix="sudo ubuntu-drivers install")
    elif has_driver(root) and not machine.gpus:
        reason = machine.unavailable.get("gpu", "NVML names no GPU")
        missing = "pynvml" in reason
        found = "nvidia-ml-py is not installed, so nothing is known of the GPU" if missing else reason
        fix = "pip install nvidia-ml-py" if missing else None
        yield Finding(area="machine", name="GPU", level="note", found=found, fix=fix)


def _gpu(gpu: Gpu) -> Iterator[Finding]:
    name = f"GPU {gpu.index}"
    memory = "" if gpu.memory_mib is None else f", {gpu.memory_mib / 1024:.0f} GiB"
    found = f"{gpu.name}{memory}, driver {gpu.driver}, CUDA {gpu.cuda}, compute capability {gpu.compute_capability}"
    yield Finding(area="machine", name=name, level="ok", found=found)
    if gpu.compute_mode == "prohibited":
        found = "its compute mode is prohibited: no program may use it"
        fix = f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"
        yield Finding(area="machine", name=f"{name} mode", level="fault", found=found, fix=fix)
    if (gpu.power_limit_w or 0) < (gpu.default_power_limit_w or 0):
        yield Finding(
            area="machine",
            name=f"{name} power",
            level="warning",
            found=f"limited to {gpu.power_limit_w:g} W of {gpu.default_power_limit_w:g} W",
            fix=f"sudo nvidia-smi -i {gpu.index} -pl {gpu.default_power_limit_w:g}",
        )
    if gpu.application_graphics_mhz is not None and gpu.application_graphics_mhz < (gpu.max_graphics_mhz or 0):
        found = f"asked for {gpu.application_graphics_mhz} MHz of {gpu.max_graphics_mhz}"
        fix = f"sudo nvidia-smi -i {gpu.index} -rac"
        yield Finding(area="machine", name=f"{name} clock", level="note", found=found, fix=fix)
    if gpu.persistence is False:
        found = "persistence mode is off: the first program waits for the driver"
        fix = f"sudo nvidia-smi -i {gpu.index} -pm 1"
        yield Finding(area="machine", name=f"{name} persistence", level="note", found=found, fix=fix)


def _sensors(root: Path) -> Iterator[Finding]:
    """Yield what a benchmark can tell of the conditions on this machine."""
    sources = sources_of(root)
    try:
        told = {sensor.quantity: sensor.name for sensor in sources.sensors}
        rails = sorted(
            {*(s.name for s in sources.sensors if s.quantity == "power_w"), *(c.name for c in sources.counters)}
        )
        watched = sorted({watch.part for watch in sources.watches})
    finally:
        sources.close()
    reasons = sources.unavailable
    power = next(
        (reason for key, reason in sorted(reasons.items()) if key.startswith("power_w")), "nothing measures it"
    )
    locked = any("energy_uj may not be read" in reason for reason in reasons.values())
    yield Finding(
        area="machine",
        name="power and energy",
        level="ok" if rails else "note",
        found=", ".join(rails) if rails else f"not measured: {power}",
        fix="sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" if locked and not rails else None,
    )
    names = {"temperature_c": "temperature", "clocks_mhz": "clocks"}
    can = [word for key, word in names.items() if key in told] + (
        ["throttling of " + ", ".join(watched)] if watched else []
    )
    cannot = [word for key, word in names.items() if key not in told] + ([] if watched else ["throttling"])
    yield Finding(
        area="machine",
        name="sensors",
        level="note" if cannot else "ok",
        found="; ".join(
            [*([f"told: {', '.join(can)}"] if can else []), *([f"not told: {', '.join(cannot)}"] if cannot else [])]
        ),
    )

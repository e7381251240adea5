"""The processor: what it is and what bounds it, from /proc/cpuinfo, cpufreq and the control group."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from export.machine.files import folders, mhz, read_int, read_text, whole
from export.machine.model import Cpu

FEATURES = (
    *("avx", "avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("neon", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)
"""The vector instructions that decide how fast a network runs; asimdhp computes in 16 bits, asimddp and i8mm in 8."""

# Arm's processors tell two numbers and no name: implementer and part, from Arm's documentation of MIDR_EL1.
_ARM = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd07"): "Arm Cortex-A57",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def read_cpu(root: Path, unavailable: dict[str, str]) -> Cpu:
    """Return what this machine's processor is; `unavailable` says what could not be read, and why."""
    text = read_text(root / "proc/cpuinfo", unavailable, "cpu.model") or ""
    fields = _fields(text)
    model = _model(fields)
    if text and model is None:
        unavailable["cpu.model"] = f"{root / 'proc/cpuinfo'} names no model"
    flags = set(" ".join([*fields.get("flags", []), *fields.get("Features", [])]).split())
    usable = usable_cpus(root)
    policies = policies_of(root, usable)
    if not policies:
        unavailable["cpu.clocks"] = (
            "the kernel has no cpufreq here (a virtual machine, or clocks that the firmware sets)"
        )
    governors = {governor for policy in policies if (governor := read_text(policy / "scaling_governor"))}
    return Cpu(
        model=model,
        architecture=platform.machine(),
        usable=len(usable),
        online=text.count("processor\t:") or None,
        quota_cpus=quota_cpus(root),
        features=tuple(name for name in FEATURES if name in flags),
        governor=", ".join(sorted(governors)) or None,
        limit_min_mhz=_bound(policies, "scaling_min_freq", min),
        limit_max_mhz=_bound(policies, "scaling_max_freq", max),
        hardware_min_mhz=_bound(policies, "cpuinfo_min_freq", min),
        hardware_max_mhz=_bound(policies, "cpuinfo_max_freq", max),
        boost=_boost(root),
    )


def usable_cpus(root: Path) -> frozenset[int]:
    """Return the CPUs on which this process may run."""
    allowed = re.search(
        r"^Cpus_allowed_list:\s*(\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*)$",
        read_text(root / "proc/self/status") or "",
        re.MULTILINE,
    )
    if allowed is not None:
        return frozenset(cpu for part in allowed[1].split(",") for cpu in _span(part))
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _span(part: str) -> Iterable[int]:
    """Return the numbers of `2-5`, or of `2`."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def policies_of(root: Path, usable: Iterable[int]) -> list[Path]:
    """Return the folders of cpufreq whose CPUs share a clock and are usable."""
    wanted = set(usable)
    found = []
    for policy in folders(root, "sys/devices/system/cpu/cpufreq", "policy*"):
        cpus = read_text(policy / "affected_cpus") or ""
        if any(whole(cpu) in wanted for cpu in cpus.split()):
            found.append(policy)
    return found


def quota_cpus(root: Path) -> float | None:
    """Return how many CPUs' time the control group of this process grants, or None where it sets no bound.

    Source: Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    """
    for folder in _own_groups(root):
        text = (read_text(folder / "cpu.max") or "").split()
        if len(text) == 2:
            quota, period = whole(text[0]), whole(text[1])
        else:
            quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            return quota / period
    return None


def _own_groups(root: Path) -> list[Path]:
    """Return where the control group of this process may be: its own folder, then what a container shows as the root."""
    base = root / "sys/fs/cgroup"
    own = [line.split(":", 2) for line in (read_text(root / "proc/self/cgroup") or "").splitlines()]
    found = []
    for parts in own:
        if len(parts) == 3 and (parts[1] == "" or "cpu" in parts[1].split(",")):
            at = base if parts[1] == "" else base / "cpu"
            found.append(at / parts[2].lstrip("/"))
    return [*found, base, base / "cpu"]


def _fields(text: str) -> dict[str, list[str]]:
    """Return the values of each field of /proc/cpuinfo, each distinct one once."""
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        values = fields.setdefault(name.strip(), [])
        if colon and value.strip() not in values:
            values.append(value.strip())
    return fields


def _model(fields: dict[str, list[str]]) -> str | None:
    for name in ("model name", "Hardware", "cpu"):
        if fields.get(name):
            return fields[name][0]
    names = [
        _ARM.get((implementer, part), f"Arm implementer {implementer} part {part}")
        for implementer in fields.get("CPU implementer", [])
        for part in fields.get("CPU part", [])
    ]
    return " + ".join(names) or None


def _bound(policies: Iterable[Path], file: str, choose: Callable[[list[int]], int]) -> float | None:
    values = [value for policy in policies if (value := read_int(policy / file)) is not None]
    return mhz(choose(values)) if values else None


def _boost(root: Path) -> bool | None:
    """Return whether clocks above the nominal one are allowed; None where the driver does not tell."""
    cpu = root / "sys/devices/system/cpu"
    no_turbo = read_int(cpu / "intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    boost = read_int(cpu / "cpufreq/boost")
    return None if boost is None else boost == 1

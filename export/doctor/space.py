"""Memory, swap, disk and shared memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from bmtas.files import cache_folder
from export.doctor.finding import Finding, Level
from export.machine.files import read_text

GIB = 2**30
LOW_MEMORY = GIB
"""Less than this is too little for an export or the build of an engine."""

SMALL_MEMORY = 4 * GIB
LOW_DISK = 2 * GIB
NO_DISK = GIB // 20
SMALL_SHARED = GIB // 4
"""Docker gives 64 MiB, in which processes that load images cannot hand them over."""


def space_findings(root: Path, runs: Path, container: str) -> Iterator[Finding]:
    """Yield whether there is enough of everything; `runs` is where run folders are kept."""
    yield from memory_findings(read_text(root / "proc/meminfo") or "")
    for name, folder in (("runs folder", runs), ("cache folder", cache_folder())):
        yield _folder(name, folder)
    shared = root / "dev/shm"
    if shared.is_dir():
        yield shared_finding(shutil.disk_usage(shared).total, container)


def memory_findings(meminfo: str) -> Iterator[Finding]:
    """Yield what /proc/meminfo tells of memory and swap; nothing where it tells nothing."""
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    if "MemAvailable" not in found:
        return
    free, swap, swap_free = found["MemAvailable"], found.get("SwapTotal", 0), found.get("SwapFree", 0)
    low = free + swap_free < LOW_MEMORY or free < LOW_MEMORY // 2
    tight = free < SMALL_MEMORY and not swap
    level: Level = "warning" if low else "note" if tight else "ok"
    advice = "; too little to build an engine or export a network" if low else "; the build of an engine may need more"
    yield Finding(
        area="space",
        name="memory",
        level=level,
        found=f"{free / GIB:.1f} GiB free, swap {swap_free / GIB:.1f} GiB free of {swap / GIB:.1f} GiB"
        + (advice if level != "ok" else ""),
        fix="sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
        if level != "ok" and not swap
        else None,
    )


def _folder(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    option = "bmtas COMMAND --runs FOLDER" if name == "runs folder" else "export BMTAS_CACHE=FOLDER"
    writable = os.access(there, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    if not writable or not there.is_dir():
        found = f"{there} cannot be written by this user" if there.is_dir() else f"{there} is no folder"
        return Finding(area="space", name=name, level="fault", found=found, fix=option)
    return disk_finding(name, folder, shutil.disk_usage(there).free, option)


def disk_finding(name: str, folder: Path, free: int, fix: str) -> Finding:
    """Return whether `free` bytes are enough for a folder."""
    level: Level = "fault" if free < NO_DISK else "warning" if free < LOW_DISK else "ok"
    return Finding(
        area="space",
        name=name,
        level=level,
        found=f"{folder}: {free / GIB:.1f} GiB free",
        fix=None if level == "ok" else f"df -h {folder.absolute().anchor} shows what is full; {fix} takes another disk",
    )


def shared_finding(total: int, container: str) -> Finding:
    """Return whether `total` bytes of /dev/shm are enough for processes that load images."""
    small = total < SMALL_SHARED
    inside = container if container != "none" else "docker"
    return Finding(
        area="space",
        name="shared memory",
        level="warning" if small else "ok",
        found=f"{total / GIB:.2f} GiB in /dev/shm" + ("; processes that load images need more" if small else ""),
        fix=None
        if not small
        else "sudo mount -o remount,size=2G /dev/shm"
        if container == "none"
        else f"{inside} run --shm-size 2g ...",
    )

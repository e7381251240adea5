"""A Jetson board: what it is and in which power mode, from the device tree, L4T's files and sysfs.

Paths are those of NVIDIA's Jetson Linux developer guide; clocks are found by the device's name, never by a number.
"""

from __future__ import annotations

import re
from pathlib import Path

from export.machine.files import folders, read_int, read_text, whole
from export.machine.model import Cpu, Jetson

# From the release notes of JetPack: the release of L4T that each one brought.
_JETPACK = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
}
_JETPACK_MAJOR = {"32": "4", "35": "5", "36": "6", "38": "7"}
_GPU = re.compile(r"(\.gpu|\.ga10b|\.gv11b|\.gp10b|gpu-gpc-\d+)$")
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_MODE = re.compile(r"^\s*<\s*POWER_MODEL\s([^>]*)>", re.MULTILINE)
_PACKAGE = re.compile(r"^Package: nvidia-jetpack\n(?:(?!\n).+\n)*?Version: (\S+)", re.MULTILINE)


def is_jetson(root: Path) -> bool:
    """Return whether the machine is a Jetson board, in a container too."""
    return (root / "etc/nv_tegra_release").exists() or "Jetson" in (read_text(root / "proc/device-tree/model") or "")


def read_jetson(root: Path, cpu: Cpu, unavailable: dict[str, str]) -> Jetson | None:
    """Return the board, or None where the machine is no Jetson; `unavailable` says what could not be read, and why."""
    if not is_jetson(root):
        return None
    model = read_text(root / "proc/device-tree/model", unavailable, "jetson.model")
    l4t = _l4t(root, unavailable)
    jetpack, derived = _jetpack(root, l4t)
    modes = power_modes(root, unavailable)
    mode_id = _mode_id(root, unavailable)
    gpu = gpu_devfreq(root)
    if gpu is None:
        unavailable["jetson.gpu clocks"] = f"{root / 'sys/class/devfreq'} names no GPU"
    lowest, highest = (None, None) if gpu is None else (_mhz(gpu / "min_freq"), _mhz(gpu / "max_freq"))
    return Jetson(
        model=model or "NVIDIA Jetson",
        l4t=l4t,
        jetpack=jetpack,
        jetpack_derived=derived,
        power_mode_id=mode_id,
        power_mode=None if mode_id is None else modes.get(mode_id),
        power_modes=modes,
        clocks_fixed=_fixed(cpu, lowest, highest),
        gpu_min_mhz=lowest,
        gpu_max_mhz=highest,
        gpu_hardware_max_mhz=None if gpu is None else _available_max(gpu),
        emc_max_mhz=_emc_max(root, unavailable),
    )


def gpu_devfreq(root: Path) -> Path | None:
    """Return the folder of the GPU's clock, found by the name of its device."""
    return next((path for path in folders(root, "sys/class/devfreq", "*") if _GPU.search(path.name)), None)


def power_modes(root: Path, unavailable: dict[str, str]) -> dict[int, str]:
    """Return the names of the board's power modes by id, as nvpmodel.conf lists them; comments are left out."""
    text = read_text(root / "etc/nvpmodel.conf", unavailable, "jetson.power_modes") or ""
    found = {}
    for match in _MODE.finditer(text):
        values = dict(part.split("=", 1) for part in match[1].split() if "=" in part)
        if values.get("ID", "").isdecimal() and "NAME" in values:
            found[int(values["ID"])] = values["NAME"]
    return found


def fastest_mode(modes: dict[int, str]) -> int | None:
    """Return the id of the mode that holds nothing back: MAXN_SUPER, then MAXN, then the most watts. None if no name tells.

    Ids are in no order: on an Orin Nano 15 W is 0, MAXN_SUPER 2 and 7 W is 3.
    """

    def rank(item: tuple[int, str]) -> tuple[int, int]:
        name = item[1].upper()
        watts = re.search(r"(\d+)W", name)
        return (2 if "MAXN_SUPER" in name else 1 if "MAXN" in name else 0), int(watts[1]) if watts else 0

    best = max(modes.items(), key=rank, default=None)
    return best[0] if best is not None and rank(best) != (0, 0) else None


def _l4t(root: Path, unavailable: dict[str, str]) -> str | None:
    text = read_text(root / "etc/nv_tegra_release", unavailable, "jetson.l4t")
    found = _RELEASE.search(text or "")
    if text is not None and found is None:
        unavailable["jetson.l4t"] = f"{root / 'etc/nv_tegra_release'} begins with {text[:40]!r}, which names no release"
    return None if found is None else f"{found[1]}.{found[2]}"


def _jetpack(root: Path, l4t: str | None) -> tuple[str | None, bool]:
    """Return the version of JetPack, and whether it was concluded from that of L4T: a board may have L4T and no JetPack."""
    try:
        with (root / "var/lib/dpkg/status").open(encoding="utf-8", errors="replace") as file:
            installed = _PACKAGE.search(file.read())
    except OSError:
        installed = None
    if installed is not None:
        return installed[1].partition("+")[0], False
    if l4t is None:
        return None, False
    full = ".".join([*l4t.split("."), "0", "0"][:3])
    major = _JETPACK_MAJOR.get(l4t.partition(".")[0])
    return _JETPACK.get(full, None if major is None else f"{major}.x"), True


def _mode_id(root: Path, unavailable: dict[str, str]) -> int | None:
    path = root / "var/lib/nvpmodel/status"
    text = read_text(path, unavailable, "jetson.power_mode")
    found = re.search(r"pmode:(\d+)", text or "")
    if text is not None and found is None:
        unavailable["jetson.power_mode"] = f"{path} holds {text[:40]!r}, which names no mode"
    return None if found is None else int(found[1])


def _mhz(path: Path) -> float | None:
    hz = read_int(path)
    return None if hz is None else hz / 1e6


def _available_max(gpu: Path) -> float | None:
    steps = [whole(step) for step in (read_text(gpu / "available_frequencies") or "").split()]
    return max((step / 1e6 for step in steps if step is not None), default=None)


def _fixed(cpu: Cpu, gpu_min: float | None, gpu_max: float | None) -> bool | None:
    """Return whether the clocks of CPU and GPU may not move; None where one of them does not tell its limits."""
    pairs = ((cpu.limit_min_mhz, cpu.limit_max_mhz), (gpu_min, gpu_max))
    if any(lowest != highest for lowest, highest in pairs if None not in (lowest, highest)):
        return False
    return None if any(None in pair for pair in pairs) else True


def _emc_max(root: Path, unavailable: dict[str, str]) -> float | None:
    """Return the bound that the power mode sets to the memory's clock; it sets 0 where there is none."""
    for place in ("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc"):
        hz = read_int(root / place)
        if hz:
            return hz / 1e6
    unavailable["jetson.emc_max_mhz"] = "the power mode sets no bound to the memory's clock, or does not tell it"
    return None

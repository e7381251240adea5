"""Temperature, clocks, energy and throttling of the processor, from hwmon, thermal zones, cpufreq, RAPL and its counters.

Source: the kernel's documentation of hwmon/sysfs-interface, thermal/sysfs-api, power/powercap and cpu-freq.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from export.machine.cpu import policies_of, usable_cpus
from export.machine.files import Number, by_name, folders, read_int, read_text, why
from export.machine.sources import Counter, Quantity, Sensor, Sources, Watch

_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_ZONES = ("cpu", "x86_pkg_temp", "soc")
_MOST_CLOCKS = 16  # beyond that many, only the fastest is told
_SLOWED = ("throttle", "cpufreq", "devfreq", "processor", "powerclamp")
"""Cooling devices that lower a clock; the others are fans."""


def cpu_sources(root: Path, sources: Sources) -> None:
    """Add what the kernel tells of the processor to `sources`."""
    _temperatures(root, sources)
    cpu_clocks(root, sources)
    _energy(root, sources)
    cooling(root, sources, "cpu", certain=False)
    _counted(root, sources)


def open_sensor(
    sources: Sources, path: Path, name: str, quantity: Quantity, scale: float
) -> Callable[[], float | None] | None:
    """Return what reads the file `path` in other units; None where it cannot be opened, which `sources.unavailable` then says."""
    try:
        number = Number(path)
    except OSError as error:
        sources.unavailable[f"{quantity}.{name}"] = f"{path} {why(error)}"
        return None
    sources.closers.append(number.close)
    return lambda: None if (value := number()) is None else value * scale


def add_file(sources: Sources, path: Path, name: str, quantity: Quantity, scale: float) -> None:
    """Add the file `path` as a sensor, if it tells a number now."""
    read = open_sensor(sources, path, name, quantity, scale)
    if read is not None:
        sources.add(Sensor(name, quantity, read), lambda: f"{path} tells no number now")


def zones(root: Path, sources: Sources, wanted: Callable[[str], bool]) -> int:
    """Add the thermal zones whose type is `wanted`, in degrees Celsius; return how many there are."""
    count = 0
    for zone in folders(root, "sys/class/thermal", "thermal_zone*"):
        kind = read_text(zone / "type")
        if kind and wanted(kind):
            count += 1
            add_file(sources, zone / "temp", kind, "temperature_c", 1e-3)
    return count


def cpu_clocks(root: Path, sources: Sources) -> None:
    """Add the clock of each group of usable CPUs that share one; of many groups the fastest."""
    policies = policies_of(root, usable_cpus(root))
    if not policies:
        sources.unavailable["clocks_mhz.cpu"] = "the kernel has no cpufreq here"
        return
    if len(policies) <= _MOST_CLOCKS:
        for policy in policies:
            cpus = (read_text(policy / "affected_cpus") or "").split()
            name = f"cpu{cpus[0]}" if len(cpus) == 1 else f"cpu{cpus[0]}-{cpus[-1]}"
            add_file(sources, policy / "scaling_cur_freq", name, "clocks_mhz", 1e-3)
        return
    name = "fastest cpu"
    reads = [open_sensor(sources, policy / "scaling_cur_freq", name, "clocks_mhz", 1e-3) for policy in policies]
    opened = [read for read in reads if read is not None]

    def fastest() -> float | None:
        return max((value for read in opened if (value := read()) is not None), default=None)

    sources.add(Sensor(name, "clocks_mhz", fastest), lambda: "scaling_cur_freq of no CPU tells a number")


def cooling(root: Path, sources: Sources, part: str, *, certain: bool) -> bool:
    """Watch the cooling devices that lower a clock; return whether there are any.

    Where they are not `certain` to tell of all throttling, they count only when they do: hardware may slow down by itself.
    """
    found = []
    for device in folders(root, "sys/class/thermal", "cooling_device*"):
        kind = read_text(device / "type") or ""
        if any(word in kind.lower() for word in _SLOWED):
            try:
                number = Number(device / "cur_state")
            except OSError:
                continue
            sources.closers.append(number.close)
            found.append((kind, number))

    def active() -> list[str] | None:
        kinds = [f"cooling by {kind}" for kind, number in found if (number() or 0) > 0]
        return kinds if kinds or certain else None

    if found:
        sources.watches.append(Watch(part, active))
    return bool(found)


def counted(files: dict[Path, str]) -> Callable[[], list[str] | None]:
    """Return what tells which counters have grown since now, by their names; None where none can be read any more."""
    before = {path: value for path in files if (value := read_int(path)) is not None}

    def grown() -> list[str] | None:
        now = {path: read_int(path) for path in before}
        if all(value is None for value in now.values()):
            return None
        return list(
            dict.fromkeys(files[path] for path, value in now.items() if value is not None and value > before[path])
        )

    return grown


def _temperatures(root: Path, sources: Sources) -> None:
    found = 0
    for chip, folder in by_name(root):
        if chip not in _CHIPS:
            continue
        for file in folders(folder, ".", "temp*_input"):
            label = read_text(file.with_name(file.name.replace("_input", "_label"))) or ""
            if not label.startswith("Core "):  # each core of its own; the package's is their highest
                found += 1
                add_file(sources, file, f"{chip} {label}".strip(), "temperature_c", 1e-3)
    if not found:
        found = zones(root, sources, lambda kind: any(word in kind.lower() for word in _ZONES))
    if not found:
        sources.unavailable["temperature_c.cpu"] = "neither hwmon nor a thermal zone tells the processor's temperature"


def _energy(root: Path, sources: Sources) -> None:
    """Add RAPL's counters: of whole packages, and of what is in them under the package's name."""
    places = list(folders(root, "sys/class/powercap", "intel-rapl:*"))
    if not places:
        sources.unavailable["power_w.cpu"] = "the kernel has no RAPL counters here (/sys/class/powercap)"
    names = {place.name: read_text(place / "name") or place.name for place in places}
    for place in places:
        above = place.name.rpartition(":")[0]
        whole = above not in names
        name = names[place.name] if whole else f"{names[above]} {names[place.name]}"
        read = open_sensor(sources, place / "energy_uj", name, "power_w", 1e-3)
        if read is None:
            continue
        if read() is None:
            sources.unavailable[f"power_w.{name}"] = f"{place / 'energy_uj'} tells no number"
            continue
        wraps = read_int(place / "max_energy_range_uj")
        package = whole and names[place.name].startswith("package")
        sources.add_counter(
            Counter(name, read, (wraps or math.inf) * 1e-3, part="cpu" if package else "other", gives_power=True)
        )
    packages = sources.rails_of("cpu")
    if len(packages) > 1:
        sources.totals["all packages"] = tuple(packages)
        sources.main["cpu"] = "all packages"
    elif packages:
        sources.main["cpu"] = packages[0]


def _counted(root: Path, sources: Sources) -> None:
    """Watch the counters of Intel processors: how often heat has lowered the clock of a core or a package."""
    files = {
        root / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count": f"heat ({kind})"
        for cpu in sorted(usable_cpus(root))
        for kind in ("core", "package")
    }
    grown = counted(files)
    if grown() is None:
        sources.unavailable["throttling.cpu"] = "the processor has no thermal_throttle counters here"
    else:
        sources.watches.append(Watch("cpu", grown, events=True))

"""NVIDIA GPUs through NVML, by the library nvidia-ml-py. Loaded only where there is a driver to ask.

On a Jetson NVML starts, and then answers nothing but "not supported": what it does not tell is named as unavailable, never zero.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem
from bmtas.extras import require
from export.machine.files import folders, read_text
from export.machine.jetson import is_jetson
from export.machine.model import Gpu
from export.machine.sources import Counter, Sensor, Sources, Watch

_COMPUTE_MODES = ("default", "exclusive thread", "prohibited", "exclusive process")
# Bits of nvmlClocksEventReasons that say that heat or power lowered a clock; idle and clocks that somebody has set are no throttling.
_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_NVIDIA = "0x10de"


def has_driver(root: Path) -> bool:
    """Return whether a driver of NVIDIA runs here, so that NVML may be asked."""
    places = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")
    return is_jetson(root) or any((root / place).exists() for place in places)


def has_card(root: Path) -> bool:
    """Return whether the PCI bus has a display or compute device of NVIDIA, with or without a driver."""
    for device in folders(root, "sys/bus/pci/devices", "*"):
        if read_text(device / "vendor") == _NVIDIA and (read_text(device / "class") or "").startswith("0x03"):
            return True
    return False


class Nvml:
    """The library, started; closes it again at the end."""

    def __init__(self) -> None:
        """Start NVML. Raises EnvironmentProblem where it or its library is missing, or the driver does not answer."""
        self._module: Any = require("pynvml", "gpu")
        try:
            self._module.nvmlInit()
        except self._module.NVMLError as error:
            raise EnvironmentProblem(f"NVML does not start ({error}); the NVIDIA driver is missing or broken") from None
        count = self.ask("nvmlDeviceGetCount") or 0
        self.handles = [self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        self.refused = ""

    def ask(self, function: str, *arguments: Any) -> Any:
        """Return what a function of NVML answers; None where it answers by an error, which `refused` then tells."""
        try:
            return getattr(self._module, function)(*arguments)
        except (self._module.NVMLError, AttributeError) as error:
            self.refused = str(error) or type(error).__name__
            return None

    def constant(self, name: str) -> int:
        """Return a constant of NVML's header."""
        return int(getattr(self._module, name))

    def instant_power_mw(self, handle: Any) -> float | None:
        """Return the power now: since Ampere the plain question answers with the mean of the last second."""
        field = self.ask("nvmlDeviceGetFieldValues", handle, [self.constant("NVML_FI_DEV_POWER_INSTANT")])
        if field and field[0].nvmlReturn == 0 and field[0].value.uiVal:
            return float(field[0].value.uiVal)
        return None

    def close(self) -> None:
        """Let go of NVML."""
        self.ask("nvmlShutdown")


def open_nvml(root: Path, unavailable: dict[str, str]) -> Nvml | None:
    """Return NVML, or None where it cannot be asked; `unavailable["gpu"]` then says why."""
    if not has_driver(root):
        unavailable["gpu"] = (
            "an NVIDIA card is there, but no driver runs for it" if has_card(root) else "no NVIDIA driver runs here"
        )
        return None
    try:
        return Nvml()
    except EnvironmentProblem as error:
        unavailable["gpu"] = str(error)
        return None


def read_gpus(root: Path, unavailable: dict[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that NVML names; `unavailable` says what it does not tell of them, and why."""
    nvml = open_nvml(root, unavailable)
    if nvml is None:
        return ()
    try:
        driver, version = nvml.ask("nvmlSystemGetDriverVersion"), nvml.ask("nvmlSystemGetCudaDriverVersion")
        cuda = None if version is None else f"{version // 1000}.{version % 1000 // 10}"
        gpus = [_gpu(nvml, i, handle, _text(driver), cuda, unavailable) for i, handle in enumerate(nvml.handles)]
    finally:
        nvml.close()
    if not gpus:
        unavailable["gpu"] = "NVML names no GPU"
    return tuple(gpus)


def _gpu(nvml: Nvml, index: int, handle: Any, driver: str | None, cuda: str | None, unavailable: dict[str, str]) -> Gpu:
    def ask(name: str, function: str, *arguments: Any) -> Any:
        value = nvml.ask(f"nvmlDeviceGet{function}", handle, *arguments)
        if value is None:
            unavailable[f"gpu{index}.{name}"] = f"NVML: {nvml.refused}"
        return value

    memory, mode = ask("memory_mib", "MemoryInfo"), ask("compute_mode", "ComputeMode")
    capability = ask("compute_capability", "CudaComputeCapability")
    mig, persistence = nvml.ask("nvmlDeviceGetMigMode", handle), ask("persistence", "PersistenceMode")
    graphics, memory_clock = nvml.constant("NVML_CLOCK_GRAPHICS"), nvml.constant("NVML_CLOCK_MEM")
    known_mode = isinstance(mode, int) and 0 <= mode < len(_COMPUTE_MODES)
    return Gpu(
        index=index,
        name=_text(ask("name", "Name")),
        uuid=_text(ask("uuid", "UUID")),
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        memory_mib=None if memory is None else int(memory.total) // 2**20,
        driver=driver,
        cuda=cuda,
        power_limit_w=_watts(ask("power_limit_w", "EnforcedPowerLimit")),
        default_power_limit_w=_watts(ask("default_power_limit_w", "PowerManagementDefaultLimit")),
        persistence=None if persistence is None else bool(persistence),
        compute_mode=_COMPUTE_MODES[mode] if known_mode else None,
        mig=None if mig is None else bool(mig[0]),
        max_graphics_mhz=ask("max_graphics_mhz", "MaxClockInfo", graphics),
        max_memory_mhz=ask("max_memory_mhz", "MaxClockInfo", memory_clock),
        # Newer drivers and most consumer cards know no application clocks, so their absence is nothing to tell.
        application_graphics_mhz=nvml.ask("nvmlDeviceGetApplicationsClock", handle, graphics),
        application_memory_mhz=nvml.ask("nvmlDeviceGetApplicationsClock", handle, memory_clock),
    )


def gpu_sources(root: Path, sources: Sources) -> None:
    """Add what NVML tells of each GPU to `sources`: temperature, clocks, power, its energy counter and why its clock is held."""
    nvml = open_nvml(root, sources.unavailable)
    if nvml is None:
        return
    sources.closers.append(nvml.close)
    for index, handle in enumerate(nvml.handles):
        _add(nvml, f"gpu{index}", handle, sources)
    if not nvml.handles:
        sources.unavailable["gpu"] = "NVML names no GPU"
    elif sources.rails_of("gpu"):
        sources.main["gpu"] = f"gpu{_chosen(nvml)}"


def _add(nvml: Nvml, gpu: str, handle: Any, sources: Sources) -> None:
    def reader(function: str, *arguments: Any, scale: float = 1.0) -> Callable[[], float | None]:
        def read() -> float | None:
            value = nvml.ask(f"nvmlDeviceGet{function}", handle, *arguments)
            return None if value is None else float(value) * scale

        return read

    graphics, memory = nvml.constant("NVML_CLOCK_GRAPHICS"), nvml.constant("NVML_CLOCK_MEM")
    instant = functools.partial(nvml.instant_power_mw, handle)
    power = reader("PowerUsage", scale=1e-3)
    if instant() is not None:

        def power() -> float | None:
            found = instant()
            return None if found is None else found * 1e-3

    sensors = (
        Sensor(gpu, "temperature_c", reader("Temperature", nvml.constant("NVML_TEMPERATURE_GPU"))),
        Sensor(gpu, "clocks_mhz", reader("ClockInfo", graphics)),
        Sensor(f"{gpu} memory", "clocks_mhz", reader("ClockInfo", memory)),
        Sensor(gpu, "power_w", power, part="gpu"),
    )
    for sensor in sensors:
        sources.add(sensor, lambda: f"NVML: {nvml.refused}")
    energy = reader("TotalEnergyConsumption")
    if energy() is not None:
        sources.add_counter(Counter(gpu, energy, math.inf, part="gpu"))
    reasons = _reasons(nvml, handle)
    if reasons() is None:
        sources.unavailable[f"throttling.{gpu}"] = f"NVML: {nvml.refused}"
    else:
        sources.watches.append(Watch("gpu", reasons))


def _reasons(nvml: Nvml, handle: Any) -> Callable[[], list[str] | None]:
    """Return what tells why the GPU's clock is held; the function has two names, the older one for older drivers."""

    def read() -> list[str] | None:
        for function in ("ClocksEventReasons", "ClocksThrottleReasons"):
            bits = nvml.ask(f"nvmlDeviceGetCurrent{function}", handle)
            if bits is not None:
                return [reason for bit, reason in _THROTTLING.items() if int(bits) & bit]
        return None

    return read


def _chosen(nvml: Nvml) -> int:
    """Return the index of the GPU that CUDA programs see first; NVML counts in the order of the bus."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.isdecimal() and int(first) < len(nvml.handles):
        return int(first)
    for index, handle in enumerate(nvml.handles):
        if first and (_text(nvml.ask("nvmlDeviceGetUUID", handle)) or "").startswith(first):
            return index
    return 0


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

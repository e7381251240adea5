"""Power, temperature, clocks and throttling of a Jetson board: INA3221 by the labels of its rails, thermal zones by type, devfreq by device.

Rails, the GPU's device and what throttles differ from board to board and with the release of L4T, so nothing is found by a number.
Source: hwmon/ina3221 of the kernel's documentation, and the power chapters of NVIDIA's Jetson Linux developer guide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from export.machine.cpu_sensors import add_file, cooling, counted, cpu_clocks, open_sensor, zones
from export.machine.files import by_name, folders, read_text
from export.machine.jetson import gpu_devfreq
from export.machine.sources import Sensor, Sources, Watch

_WHOLE = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails through which all of a module's power comes."""

_PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""An AGX Orin has no such rail; these three feed disjoint parts of it, and the others hang from them."""

_CHANNELS = ("1", "2", "3")  # the chip's other voltages are those of its shunts
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc/rate"


def jetson_sources(root: Path, sources: Sources) -> None:
    """Add what the board tells to `sources`."""
    for chip, folder in by_name(root):
        if chip == "ina3221":
            _rails(folder, sources)
    _main_rail(sources)
    if not zones(root, sources, lambda _: True):
        sources.unavailable["temperature_c"] = "the kernel has no thermal zones here"
    cpu_clocks(root, sources)
    gpu = gpu_devfreq(root)
    if gpu is None:
        sources.unavailable["clocks_mhz.gpu"] = f"{root / 'sys/class/devfreq'} names no GPU"
    else:
        add_file(sources, gpu / "cur_freq", "gpu", "clocks_mhz", 1e-6)
    add_file(sources, root / _EMC, "emc", "clocks_mhz", 1e-6)
    _throttling(root, sources)


def _rails(folder: Path, sources: Sources) -> None:
    """Add the rails of one INA3221: their power is voltage (mV) times current (mA), which the chip does not multiply."""
    for file in folders(folder, ".", "in*_label"):
        channel = file.name.removeprefix("in").removesuffix("_label")
        label = read_text(file)
        if channel not in _CHANNELS or not label or label == "NC":
            continue
        if read_text(folder / f"in{channel}_enable") == "0":
            sources.unavailable[f"power_w.{label}"] = (
                f"{folder / f'in{channel}_enable'} is 0: the channel is switched off"
            )
            continue
        volts = open_sensor(sources, folder / f"in{channel}_input", label, "power_w", 1e-3)
        amperes = open_sensor(sources, folder / f"curr{channel}_input", label, "power_w", 1e-3)
        if volts is not None and amperes is not None:
            sensor = Sensor(label, "power_w", _product(volts, amperes), part="board" if label in _WHOLE else "other")
            sources.add(sensor, functools.partial(_silent, label, folder))


def _silent(label: str, folder: Path) -> str:
    return f"the channel {label} of {folder} tells no number now"


def _product(volts: Callable[[], float | None], amperes: Callable[[], float | None]) -> Callable[[], float | None]:
    def read() -> float | None:
        u, i = volts(), amperes()
        return None if u is None or i is None else u * i

    return read


def _main_rail(sources: Sources) -> None:
    rails = [sensor.name for sensor in sources.sensors if sensor.quantity == "power_w"]
    whole = next((name for name in _WHOLE if name in rails), None)
    if whole is not None:
        sources.main["board"] = whole
    elif set(_PARTS) <= set(rails):
        sources.totals["module"] = _PARTS
        sources.main["board"] = "module"
    elif rails:
        sources.unavailable["power_w.board"] = f"none of the rails {', '.join(rails)} is known to feed the whole board"
    else:
        sources.unavailable["power_w"] = "no INA3221 tells the rails' power here"


def _throttling(root: Path, sources: Sources) -> None:
    """Watch the counters of over-current events, and the cooling devices that lower a clock."""
    events = {
        file: f"over-current event {file.name.removesuffix('_event_cnt')}"
        for _, chip in by_name(root)
        for file in folders(chip, ".", "oc*_event_cnt")
    }
    grown = counted(events)
    if grown() is None:
        sources.unavailable["throttling.over-current"] = "no oc*_event_cnt counter can be read"
    else:
        sources.watches.append(Watch("board", grown, events=True))
    if not cooling(root, sources, "board", certain=True):
        sources.unavailable["throttling.heat"] = "the kernel names no cooling device that lowers a clock"

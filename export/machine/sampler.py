"""Temperature, clocks, power and throttling, read in a thread of its own while something is measured. Changes nothing, needs no torch."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from export.machine.cpu_sensors import cpu_sources
from export.machine.jetson import is_jetson
from export.machine.jetson_sensors import jetson_sources
from export.machine.model import Conditions, Series
from export.machine.nvml import gpu_sources
from export.machine.sources import Sources
from export.machine.trace import (
    Numbers,
    Trace,
    between,
    energy_of_counter_mj,
    energy_of_power_mj,
    power_of_counter,
    series,
    unwrapped,
)

MOST_SHARE = 0.05
"""Readings take at most this share of the time: where one takes long, the next one waits."""

_SLACK = 2.0  # gaps between readings by which these may miss the ends of a stretch of time


class Sampler:
    """Reads all sensors of this machine every `interval_s` while its block runs, which it does once.

    With `idle_s` the block begins only after that many seconds, in which the power of the idle machine is measured. All times that it
    takes and tells are seconds of `clock`; `pause` waits while idle power is measured.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        interval_s: float = 0.1,
        idle_s: float = 0.0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take note of what to do; sensors are found on entering. Raises ValueError for times that are none."""
        if not 0 < interval_s < math.inf or not 0 <= idle_s < math.inf:
            raise ValueError(
                f"found interval_s {interval_s} and idle_s {idle_s}; more than 0 and at least 0 are needed"
            )
        self.interval_s, self.clock = interval_s, clock
        self.idle_power_w: dict[str, float] | None = None
        self._root, self._idle_s, self._wait = root, idle_s, pause
        self._sources = Sources()
        self._trace = Trace([])
        self._took: list[float] = []
        self._still: dict[str, str] = {}
        self._reasons: dict[str, set[str]] = {}
        self._stop = threading.Event()
        self._reading = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Sampler:
        """Find the sensors, read them once, and go on reading."""
        self._sources = sources_of(self._root)
        names = [f"{sensor.quantity}.{sensor.name}" for sensor in self._sources.sensors]
        self._trace = Trace([*names, *(f"counter.{counter.name}" for counter in self._sources.counters)])
        self._read()
        self._thread = threading.Thread(target=self._go_on, name="bmtas-sampler", daemon=True)
        self._thread.start()
        if self._idle_s > 0:
            try:
                self.idle_power_w = self._measure_idle()
            except BaseException:  # Ctrl-C while waiting: nobody else would end the thread
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read once more, and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._read()
        self._read_events()
        self._closed = True
        self._sources.close()

    @property
    def main_rail(self) -> str | None:
        """Return the rail of the whole board, or of the whole GPU, or of the processor: the first that is measured."""
        return self.rail_of("gpu") or self.rail_of("cpu")

    def rail_of(self, processor: Literal["gpu", "cpu"]) -> str | None:
        """Return the rail that holds what a GPU or CPU takes: that of the whole board, or else its own. None if neither is measured."""
        main = self._sources.main
        return main.get("board") or main.get(processor)

    @property
    def gap_s(self) -> float:
        """Return the seconds from one reading to the next: the interval, or longer where a reading takes long (the median so far)."""
        return max(self.interval_s, statistics.median(self._took) / MOST_SHARE if self._took else 0.0)

    def read_now(self) -> None:
        """Read all sensors once more, now; a stretch of time between two such readings is covered, however long readings take."""
        self._read()

    def energy_mj(self, start_s: float, end_s: float) -> dict[str, float] | None:
        """Return the energy in mJ of each rail between two times of `clock`.

        From the device's own counter where it has one, otherwise the integral of the sampled power (trapezoids). A counter that did not
        go on tells nothing of its rail, which is then left out. None where nothing measures power, or where the readings so far do
        not cover the interval; `why_no_energy` says why.
        """
        slack = _SLACK * self.gap_s
        found: dict[str, float] = {}
        stood: set[str] = set()
        for counter in self._sources.counters:
            times, counts = self._counts(counter.name, counter.wraps_at_mj)
            if len(times) > 1 and between(times, start_s, end_s, slack):
                energy = energy_of_counter_mj(times, counts, start_s, end_s)
                if energy > 0:
                    found[counter.name] = energy
                else:  # nor would the power of the same sensor be its energy
                    stood.add(counter.name)
                    self._still[counter.name] = f"its counter of energy stood still for {end_s - start_s:.3g} s"
        for sensor in self._sources.sensors:
            if sensor.quantity == "power_w" and sensor.name not in {*found, *stood}:
                times, watts = self._trace.column(f"power_w.{sensor.name}")
                if between(times, start_s, end_s, slack):
                    found[sensor.name] = energy_of_power_mj(times, watts, start_s, end_s)
        for name, parts in self._sources.totals.items():
            if all(part in found for part in parts):
                found[name] = sum(found[part] for part in parts)
        return found or None

    def why_no_energy(self, rail: str | None = None) -> str:
        """Return why there is no energy of `rail`, or of any: what could not be read, and which counters stood still."""
        parts = self._sources.totals.get(rail or "", (rail,))
        reasons = [f"{name}: {reason}" for name, reason in self._still.items() if rail is None or name in parts]
        if rail is None or not reasons:
            told = self._sources.unavailable.items()
            reasons += [f"{name}: {reason}" for name, reason in told if "power" in name or name == "gpu"]
        return "; ".join(reasons) or "no reading of power covers the measurement"

    def conditions(self) -> Conditions:
        """Return how the machine did until now, or until the block ended."""
        if not self._closed:
            self._read_events()
        quantities: dict[str, dict[str, Series]] = {"temperature_c": {}, "clocks_mhz": {}, "power_w": {}}
        columns = [(s.quantity, s.name, self._trace.column(f"{s.quantity}.{s.name}")) for s in self._sources.sensors]
        columns += [("power_w", name, column) for name, column in self._powers().items()]
        for quantity, name, (_, values) in columns:
            told = series(values)
            if told is not None:
                quantities[quantity][name] = told
        reasons = {part: sorted(found) for part, found in self._reasons.items()}
        count = len(self._trace)
        took = self._took[:count]
        times = self._span()
        return Conditions(
            samples=count,
            interval_s=self.interval_s,
            temperature_c=quantities["temperature_c"],
            clocks_mhz=quantities["clocks_mhz"],
            power_w=quantities["power_w"],
            throttled=any(reasons.values()) if reasons else None,
            throttling={part: bool(found) for part, found in reasons.items()},
            throttle_reasons=[f"{part}: {reason}" for part, found in reasons.items() for reason in found],
            reading_ms=statistics.median(took) * 1e3 if took else None,
            share_of_time=sum(took) / times if times > 0 else None,
            unavailable={**self._sources.unavailable, **{f"energy_mj.{k}": why for k, why in self._still.items()}},
        )

    def _measure_idle(self) -> dict[str, float] | None:
        start = self.clock()
        self._wait(self._idle_s)
        end = self.clock()
        self._read()
        energy = self.energy_mj(start, end)
        return None if energy is None else {rail: mj / (end - start) / 1e3 for rail, mj in energy.items()}

    def _go_on(self) -> None:
        """Read again and again; a reading that takes long is followed by a longer pause."""
        pause = self._pause()
        while not self._stop.wait(pause):
            self._read()
            pause = self._pause()

    def _pause(self) -> float:
        took = self._took[-1]
        return max(self.interval_s - took, took / MOST_SHARE - took)

    def _read(self) -> None:
        with self._reading:
            start = self.clock()
            values = [sensor.read() for sensor in self._sources.sensors]
            values += [counter.read() for counter in self._sources.counters]
            for watch in self._sources.watches:
                if not watch.events:
                    self._note(watch.part, watch.read())
            end = self.clock()
            self._took.append(end - start)
            self._trace.add((start + end) / 2, values)

    def _read_events(self) -> None:
        """Read what counts events since the beginning: there it is enough to look at the end."""
        for watch in self._sources.watches:
            if watch.events:
                self._note(watch.part, watch.read())

    def _note(self, part: str, reasons: list[str] | None) -> None:
        if reasons is not None:
            self._reasons.setdefault(part, set()).update(reasons)

    def _span(self) -> float:
        first_and_last = self._trace.span()
        return 0.0 if first_and_last is None else first_and_last[1] - first_and_last[0]

    def _counts(self, name: str, wraps_at: float) -> tuple[Numbers, Numbers]:
        times, counts = self._trace.column(f"counter.{name}")
        return times, unwrapped(counts, wraps_at)

    def _powers(self) -> dict[str, tuple[Numbers, Numbers]]:
        """Return times and power in W of each rail: as it was read, as a counter went on, and as the sum of others."""
        found = {
            sensor.name: self._trace.column(f"power_w.{sensor.name}")
            for sensor in self._sources.sensors
            if sensor.quantity == "power_w"
        }
        for counter in self._sources.counters:
            if counter.gives_power:
                times, watts = power_of_counter(*self._counts(counter.name, counter.wraps_at_mj), self.interval_s / 2)
                if watts.any():  # one that stood still all the time tells no power
                    found[counter.name] = times, watts
        for name, parts in self._sources.totals.items():
            columns = [found[part] for part in parts if part in found]
            if len(columns) == len(parts) and all(len(times) for times, _ in columns):
                at = columns[0][0]
                found[name] = at, np.sum([np.interp(at, times, watts) for times, watts in columns], axis=0)
        return found


def sources_of(root: Path) -> Sources:
    """Return all that can be sampled on this machine."""
    sources = Sources()
    if is_jetson(root):
        jetson_sources(root, sources)
    else:
        cpu_sources(root, sources)
    gpu_sources(root, sources)
    return sources

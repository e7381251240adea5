"""What sensors told over time, and the energy that follows from it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from export.machine.model import Series

Numbers = npt.NDArray[np.float64]


class Trace:
    """Readings of some sensors, in order of time (seconds of time.perf_counter); a sensor that told nothing has NaN there."""

    def __init__(self, names: Iterable[str]) -> None:
        """Begin without readings. `names` may be written in any form, but each only once."""
        self._times = array("d")
        self._values = {name: array("d") for name in names}

    def __len__(self) -> int:
        """Return the number of readings."""
        return len(self._times)

    def add(self, time_s: float, values: Sequence[float | None]) -> None:
        """Add one reading of all sensors, in the order of their names."""
        for column, value in zip(self._values.values(), values, strict=True):
            column.append(math.nan if value is None else value)
        self._times.append(time_s)

    def span(self) -> tuple[float, float] | None:
        """Return the times of the first and the last reading."""
        return (self._times[0], self._times[-1]) if self._times else None

    def column(self, name: str) -> tuple[Numbers, Numbers]:
        """Return times and values of the readings at which the sensor told something."""
        count = len(self._times)
        times = np.array(self._times[:count], dtype=np.float64)
        values = np.array(self._values[name][:count], dtype=np.float64)
        told = np.isfinite(values)
        return times[told], values[told]


def series(values: Numbers) -> Series | None:
    """Return first, least, median and greatest of the values; None without any."""
    if not len(values):
        return None
    return Series(
        start=float(values[0]), min=float(values.min()), median=float(np.median(values)), max=float(values.max())
    )


def unwrapped(counts: Numbers, wraps_at: float) -> Numbers:
    """Return what a counter would say if it did not begin again from 0 at `wraps_at`."""
    if len(counts) < 2 or not math.isfinite(wraps_at):
        return counts
    turns = np.concatenate([[0], np.cumsum(np.diff(counts) < 0)])
    result: Numbers = counts + turns * wraps_at
    return result


def power_of_counter(times: Numbers, counts_mj: Numbers, least_s: float) -> tuple[Numbers, Numbers]:
    """Return times and power in W between readings of a counter of energy that are at least `least_s` apart."""
    kept = [0] if len(times) else []
    for i in range(1, len(times)):
        if times[i] - times[kept[-1]] >= least_s:
            kept.append(i)
    if len(kept) < 2:
        kept = [0, len(times) - 1] if len(times) > 1 and times[-1] > times[0] else []
    at, counts = times[kept], counts_mj[kept]
    return (at[1:] + at[:-1]) / 2, np.diff(counts) / np.diff(at) / 1e3


def between(times: Numbers, start_s: float, end_s: float, slack_s: float) -> bool:
    """Return whether readings cover the interval, up to `slack_s` at either end."""
    return bool(len(times)) and end_s >= start_s and times[0] - slack_s <= start_s and end_s <= times[-1] + slack_s


def energy_of_power_mj(times: Numbers, power_w: Numbers, start_s: float, end_s: float) -> float:
    """Return the integral of power over an interval in mJ: the power runs straight from one reading to the next, and is held at the ends."""
    inside = (times > start_s) & (times < end_s)
    at = np.concatenate([[start_s], times[inside], [end_s]])
    watts = np.interp(at, times, power_w)
    return float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(at))) * 1e3


def energy_of_counter_mj(times: Numbers, counts_mj: Numbers, start_s: float, end_s: float) -> float:
    """Return how far a counter of energy went in an interval, in mJ; between readings it runs straight, beyond them as near them."""
    first, last = (_line(times, counts_mj, at) for at in (start_s, end_s))
    return last - first


def _line(times: Numbers, counts: Numbers, at: float) -> float:
    """Return the counter at a time, carried on straight beyond its first and last reading."""
    if len(times) < 2 or times[0] <= at <= times[-1]:
        return float(np.interp(at, times, counts))
    a, b = (0, 1) if at < times[0] else (-2, -1)
    slope = (counts[b] - counts[a]) / (times[b] - times[a])
    return float(counts[a] + slope * (at - times[a]))

"""How two candidates compare: measured in turn, or at different times. Needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.stopwatch.measurement import Measurement
from export.stopwatch.rules import CONFIDENCE
from export.stopwatch.statistics import (
    LEAST_SECTIONS,
    Interval,
    Numbers,
    dependence,
    median,
    sectioned,
    sections_of,
    student_t,
)

_LARGEST = 700.0


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians, and where it lies; `interval` is None where the samples are too small to tell."""

    value: float
    interval: Interval | None

    @property
    def differs(self) -> bool | None:
        """Whether the two differ clearly: 1 lies outside the interval. None where that cannot be told."""
        return None if self.interval is None else not self.interval.low <= 1 <= self.interval.high

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        found = self.interval
        low, high, confidence = (None, None, None) if found is None else (found.low, found.high, found.confidence)
        return {"ratio": self.value, "low": low, "high": high, "confidence": confidence, "differs": self.differs}


def in_turn_ratio(first: Measurement, second: Measurement, confidence: float = CONFIDENCE) -> Ratio:
    """Return the median of `first` over that of `second`, which were measured in the same rounds.

    The interval comes from the logarithms of the ratios of both medians in each section of the rounds (see `statistics`), so that it
    stays above 0: what slows both down at the same time, as a machine's other work and its heat do, leaves each section's ratio alone.
    """
    pair = [np.asarray(m.latencies_ms) for m in (first, second)]
    ends = sections_of(len(pair[0]), min(len(first.window_ends), len(second.window_ends)))
    found = sectioned(_log_quotient, pair, ends, confidence)
    interval = None if found is None else Interval(_exp(found.low), _exp(found.high), confidence)
    return Ratio(first.median_ms / second.median_ms, interval)


def in_turn_difference(
    first: Measurement, second: Measurement, confidence: float = CONFIDENCE
) -> tuple[float, Interval | None]:
    """Return the median of `first` less that of `second` in ms, measured in the same rounds, and where it lies."""
    pair = [np.asarray(m.latencies_ms) for m in (first, second)]
    ends = sections_of(len(pair[0]), min(len(first.window_ends), len(second.window_ends)))
    return first.median_ms - second.median_ms, sectioned(_difference, pair, ends, confidence)


def apart_ratio(
    first: Sequence[float],
    second: Sequence[float],
    windows: tuple[int, int],
    confidence: float = CONFIDENCE,
) -> Ratio:
    """Return the median of `first` over that of `second`, measured at different times in so many windows each.

    The interval takes the spread of the logarithm of each one's sections, widened where they resemble their neighbours, with the smaller
    one's degrees of freedom. It says nothing of what changed on the machine in between.
    """
    value = statistics.median(first) / statistics.median(second)
    errors, degrees = [], []
    for values, count in ((first, windows[0]), (second, windows[1])):
        numbers = np.asarray(values, dtype=np.float64)
        ends = sections_of(len(numbers), count)
        if len(ends) < LEAST_SECTIONS:
            return Ratio(value, None)
        parts = [median(part) for part in np.split(numbers, ends[:-1])]
        logarithms = [math.log(part) for part in parts]
        errors.append(float(np.std(logarithms, ddof=1)) / math.sqrt(len(parts)) * dependence(logarithms))
        degrees.append(len(parts) - 1)
    half = student_t(confidence, min(degrees)) * math.hypot(*errors)
    return Ratio(value, Interval(value * _exp(-half), value * _exp(half), confidence))


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Return the median of first / second over rounds in which both were measured, with its quartiles.

    What decisions on short samples are taken by: faster in three rounds of four.
    """
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {"median": statistics.median(ratios), "q1": quartiles[0], "q3": quartiles[2]}


def _log_quotient(first: Numbers, second: Numbers) -> float:
    return math.log(median(first) / median(second))


def _exp(logarithm: float) -> float:
    """Return e to its power; of what no float holds, the largest one: JSON has no infinity."""
    return math.exp(min(logarithm, _LARGEST))


def _difference(first: Numbers, second: Numbers) -> float:
    return median(first) - median(second)

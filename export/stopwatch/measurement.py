"""What was measured of one candidate, and what it supports. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.stopwatch.rules import RULES, Rules
from export.stopwatch.statistics import (
    LEAST_SECTIONS,
    MOST_SECTIONS,
    Interval,
    median,
    median_interval,
    needed,
    outliers,
    section_ends,
    trend_probability,
    upper_rank,
)

TREND_PROBABILITY = 0.1
"""Below this a trend is no chance. A chance trend only prolongs a measurement, a missed one would make its number wrong."""
_NO_TREND = 0.25
"""A trend of less than this share of the spread bound, from the first window to the last, is of no interest."""


@dataclass(frozen=True)
class Percentile:
    """A percentile of the sample, and the value below which it lies at the stated confidence; both None with fewer than `needed` samples."""

    percentile: float
    value_ms: float | None
    bound_ms: float | None
    needed: int


@dataclass(frozen=True)
class Outliers:
    """Samples above `bound_ms` (see `statistics.outliers`), by position from 0. They stay in the sample and in every number."""

    bound_ms: float
    positions: tuple[int, ...]


@dataclass(frozen=True)
class WarmUp:
    """What came before the sample; `settled` is None where its length was given."""

    rounds: int
    seconds: float
    settled: bool | None


@dataclass(frozen=True)
class Measurement:
    """The sample of one candidate in the order in which it was taken, never clipped, and what it supports.

    `window_ends` are the positions at which windows ended. `interval` is where the median lies (None for fewer than five samples).
    `window_spread` is the relative standard deviation of the medians of windows, `trend` their change from the first to the last
    along the trend, relative to the median; both None with fewer than two windows. `unstable` says in words why the candidate did not
    come to rest, `unmet` besides what the sample was asked to support and does not; both are empty if all is well.
    """

    latencies_ms: tuple[float, ...]
    window_ends: tuple[int, ...]
    warmup: WarmUp
    median_ms: float
    interval: Interval | None
    percentiles: tuple[Percentile, ...]
    outliers: Outliers
    window_spread: float | None
    trend: float | None
    unstable: tuple[str, ...]
    unmet: tuple[str, ...]

    @property
    def stable(self) -> bool:
        """Whether the candidate came to rest."""
        return not self.unstable

    def to_json(self) -> dict[str, Any]:
        """Return all but the sample itself as plain JSON values; `percentiles` by name, such as p90."""
        values = np.asarray(self.latencies_ms)
        q1, q3 = (float(q) for q in np.quantile(values, [0.25, 0.75]))
        interval = self.interval
        return {
            "samples": len(values),
            "median_ms": self.median_ms,
            "low_ms": None if interval is None else interval.low,
            "high_ms": None if interval is None else interval.high,
            "confidence": None if interval is None else interval.confidence,
            "q1_ms": q1,
            "q3_ms": q3,
            "min_ms": float(values.min()),
            "max_ms": float(values.max()),
            "spread": (q3 - q1) / self.median_ms,
            "percentiles": {
                f"p{p.percentile:g}": {"value_ms": p.value_ms, "bound_ms": p.bound_ms, "needed": p.needed}
                for p in self.percentiles
            },
            "outliers": {"above_ms": self.outliers.bound_ms, "positions": list(self.outliers.positions)},
            "window_ends": list(self.window_ends),
            "window_spread": self.window_spread,
            "trend": self.trend,
            "warmup": {
                "rounds": self.warmup.rounds,
                "seconds": self.warmup.seconds,
                "settled": self.warmup.settled,
            },
            "stable": self.stable,
            "unmet": list(self.unmet),
        }


def window_medians(latencies_ms: Sequence[float], ends: Sequence[int]) -> list[float]:
    """Return the median of each window."""
    starts = [0, *ends][: len(ends)]
    return [median(np.asarray(latencies_ms[a:b])) for a, b in zip(starts, ends, strict=True)]


def restless(medians: Sequence[float], rules: Rules) -> list[str]:
    """Return in words why a candidate with these medians of windows is not at rest; nothing if it is."""
    if len(medians) < rules.least_windows:
        return [f"{len(medians)} windows were measured, at least {rules.least_windows} are needed"]
    found = []
    spread = spread_of(medians)
    if spread > rules.spread_bound:
        found.append(f"the medians of windows spread by {spread:.1%}, {rules.spread_bound:.1%} is allowed")
    if len(medians) >= 3:
        change, chance = trend_probability(medians)
        relative = change / float(np.median(medians))
        if chance < TREND_PROBABILITY and abs(relative) > _NO_TREND * rules.spread_bound:
            found.append(f"it drifts: the medians of windows changed by {relative:+.1%} from the first to the last")
    return found


def unsupported(samples: int, rules: Rules) -> list[str]:
    """Return in words which of the percentiles asked for so many samples do not support."""
    wanted = [(p, needed(p, rules.confidence)) for p in rules.percentiles]
    return [
        f"p{p:g} needs {least} samples at {rules.confidence:.0%} confidence, there are {samples}"
        for p, least in wanted
        if samples < least
    ]


def spread_of(medians: Sequence[float]) -> float:
    """Return the standard deviation over the mean."""
    return float(np.std(medians, ddof=1) / np.mean(medians))


def judge(
    latencies_ms: Sequence[float],
    window_ends: Sequence[int] = (),
    rules: Rules = RULES,
    warmup: WarmUp | None = None,
) -> Measurement:
    """Return what a sample supports. Where windows are too few to judge it, five to ten equal parts of the sample stand for them."""
    values = np.asarray(latencies_ms, dtype=np.float64)
    ends = list(window_ends)
    if len(ends) < LEAST_SECTIONS <= len(values):
        ends = section_ends(len(values), min(len(values), MOST_SECTIONS))
    medians = window_medians(latencies_ms, ends)
    unstable = restless(medians, rules)
    bound, positions = outliers(values)
    middle = median(values)
    return Measurement(
        latencies_ms=tuple(float(v) for v in values),
        window_ends=tuple(ends),
        warmup=warmup or WarmUp(0, 0.0, None),
        median_ms=middle,
        interval=_positive(median_interval(values, len(ends), rules.confidence)),
        percentiles=tuple(_percentile(values, p, rules.confidence) for p in rules.percentiles),
        outliers=Outliers(bound, tuple(positions)),
        window_spread=spread_of(medians) if len(medians) > 1 else None,
        trend=trend_probability(medians)[0] / middle if len(medians) > 2 else None,
        unstable=tuple(unstable),
        unmet=(*unstable, *unsupported(len(values), rules)),
    )


def _positive(interval: Interval | None) -> Interval | None:
    """Return the interval without what is below 0, where the few sections of a restless sample reach and no latency is."""
    return interval if interval is None else Interval(max(interval.low, 0.0), interval.high, interval.confidence)


def _percentile(values: Any, percentile: float, confidence: float) -> Percentile:
    least = needed(percentile, confidence)
    rank = upper_rank(len(values), percentile, confidence)
    if rank is None:
        return Percentile(percentile, None, None, least)
    return Percentile(percentile, float(np.percentile(values, percentile)), float(np.sort(values)[rank - 1]), least)


def summarise(latencies_ms: Sequence[float]) -> dict[str, Any]:
    """Return what a short sample of a fixed count supports, as `Measurement.to_json` gives it, and p90 as `p90_ms` too."""
    found = judge(latencies_ms).to_json()
    return {**found, "p90_ms": found["percentiles"]["p90"]["value_ms"]}

"""The house's stopwatch: candidates measured in turn, so that whatever else the machine does hits all of them alike.

Needs no torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Timed = Callable[[], float]
"""Runs once and returns how long it took, in ms."""


def timed(run: Callable[[], object]) -> Timed:
    """Return a candidate: one call of `run`, on this process's clock."""

    def once() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    return once


STABLE_SPREAD = 0.1
"""Above this spread the median is no property of the candidate but of what else the machine did."""

_PERCENTILE_NEEDS = {90: 10, 99: 100}  # below that many samples a percentile is the maximum under another name


def measure(
    candidates: Mapping[str, Timed], *, samples: int, warmup: int, tick: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Return `samples` latencies in ms of each candidate, one of each per round, after `warmup` rounds.

    The order within a round turns, so that no candidate always follows the same neighbour. `tick` is called
    after each round.
    """
    names = list(candidates)
    collected: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + samples):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            elapsed = candidates[name]()
            if turn >= warmup:
                collected[name].append(elapsed)
        tick()
    return collected


def summarise(latencies_ms: Sequence[float]) -> dict[str, Any]:
    """Return sample count, median, quartiles, extremes and the percentiles that the sample supports, all in ms.

    `spread` is the interquartile range over the median; `stable` whether it is at most STABLE_SPREAD.
    """
    values = np.asarray(latencies_ms, dtype=np.float64)
    q1, median, q3 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    summary: dict[str, Any] = {
        "samples": len(values),
        "median_ms": median,
        "q1_ms": q1,
        "q3_ms": q3,
        "min_ms": float(values.min()),
        "max_ms": float(values.max()),
        "spread": (q3 - q1) / median,
        "stable": (q3 - q1) / median <= STABLE_SPREAD,
    }
    for percentile, needed in _PERCENTILE_NEEDS.items():
        supported = len(values) >= needed
        summary[f"p{percentile}_ms"] = float(np.percentile(values, percentile)) if supported else None
    return summary


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Return the median of first / second over rounds in which both were measured, with its quartiles."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {"median": statistics.median(ratios), "q1": quartiles[0], "q3": quartiles[2]}

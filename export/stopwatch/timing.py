"""What is measured: something that runs once and says how long it took. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable

Timed = Callable[[], float]
"""Runs once and returns how long it took, in ms."""

Clock = Callable[[], float]
"""Tells the time in s, from any beginning."""


def timed(run: Callable[[], object]) -> Timed:
    """Return a candidate: one call of `run`, on this process's clock."""

    def once() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    return once

"""What a measurement is asked to do beside which files it measures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bmtas.errors import UsageError
from export.stages.schedule import Schedule
from export.stopwatch import RULES, Rules

SHARE_OF_WARMUP = 1 / 3
"""Warm-up by agreement takes at most this share of the time cap, so that a short measurement is no warm-up alone."""


MOST_FPS = 10_000


@dataclass(frozen=True)
class BenchOptions:
    """`threads` are measured in turn, 0 lets the runtimes choose; `batch` is for files whose batch is free; `rates` for stages.

    With `fps` frames come at that pace. `marginal` and `layers` are runs of their own, after the measurement.
    """

    provider: str = "cpu"
    threads: tuple[int, ...] = (0,)
    batch: int | None = None
    rates: Schedule | None = None
    fps: float | None = None
    marginal: bool = False
    layers: bool = False
    rules: Rules = RULES

    def __post_init__(self) -> None:
        """Raise UsageError for a pace that no camera has."""
        if self.fps is not None and not 0 < self.fps < MOST_FPS:
            raise UsageError(f"--fps {self.fps:g}: expected frames per second above 0, for example 30")


def rules_of(
    *,
    warmup_s: float | None,
    time_cap_s: float,
    spread: float,
    percentiles: tuple[float, ...],
    samples: int | None,
) -> Rules:
    """Return the rules that a caller's numbers make. Raises UsageError for numbers that no measurement can follow."""
    for option, value in (("--time-cap", time_cap_s), ("--spread", spread)):
        if not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: expected a finite number above 0")
    rules = Rules()
    window_s = min(
        rules.window_s, max(time_cap_s, 0.1) / (2 * rules.least_windows)
    )  # room for twice as many as are needed
    most = max(time_cap_s * SHARE_OF_WARMUP, 2 * window_s)
    return replace(
        rules,
        window_s=window_s,
        warmup_s=warmup_s,
        least_warmup_s=min(rules.least_warmup_s, most),
        most_warmup_s=min(rules.most_warmup_s, most),
        time_cap_s=time_cap_s,
        spread_bound=spread,
        percentiles=tuple(sorted(set(percentiles))),
        samples=samples,
    )


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Read numbers with commas. Raises UsageError for anything else."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(math.isfinite(number) for number in found):
        raise UsageError(f"{option} {text!r}: expected numbers with commas, for example 50,90,99")
    return found


def parse_threads(text: str) -> tuple[int, ...]:
    """Read `--threads 1,2`. Raises UsageError for anything but whole numbers from 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"--threads {text!r}: expected whole numbers from 0 with commas, for example 1,2; 0 lets the runtime choose"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_warmup(text: str) -> float | None:
    """Read `--warmup`: seconds, or None for `auto`. Raises UsageError for anything else."""
    if text.strip().lower() == "auto":
        return None
    try:
        seconds = float(text.strip().removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"--warmup {text!r}: expected seconds from 0, for example 3, or auto")
    return seconds

"""When a measurement has warmed up, when it may end, and what a sample must support. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from bmtas.errors import BmtasError, UsageError

CONFIDENCE = 0.99


class UnstableError(BmtasError):
    """A measurement did not come to rest, and somebody asked for one that does."""

    exit_code = 7


@dataclass(frozen=True)
class Rules:
    """The rules of one measurement; all candidates that are measured in turn share its windows.

    A window is `window_s` of the clock, rounds of all candidates included, and at least one round. Warm-up ends when each
    candidate's medians of two consecutive windows agree within `agreement`, not before `least_warmup_s` and not after
    `most_warmup_s`; with `warmup_s` it takes that long, whatever is seen. Measuring ends when there are `least_windows`
    windows whose medians have a relative standard deviation below `spread_bound` and no trend, and when the sample supports all
    `percentiles` at `confidence`; or after `time_cap_s`, warm-up not counted. With `samples` it ends after that many rounds.
    """

    window_s: float = 0.5
    agreement: float = 0.02
    least_warmup_s: float = 2.0
    most_warmup_s: float = 20.0
    warmup_s: float | None = None
    least_windows: int = 8
    spread_bound: float = 0.01
    percentiles: tuple[float, ...] = (50.0, 90.0)
    confidence: float = CONFIDENCE
    time_cap_s: float = 60.0
    samples: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for rules that no measurement can follow."""
        for name, value in asdict(self).items():
            values = [v for v in (value if isinstance(value, tuple) else [value]) if v is not None]
            if not all(math.isfinite(v) for v in values):
                raise UsageError(f"found {name} = {', '.join(f'{v:g}' for v in values)}; finite numbers are needed")
        if self.window_s <= 0 or self.least_windows < 2 or self.time_cap_s <= 0:
            raise UsageError(
                f"found windows of {self.window_s} s, at least {self.least_windows} of them and a time cap of {self.time_cap_s} s; "
                "windows and the cap must be longer than 0 s, and 2 windows are the fewest that can agree"
            )
        if self.spread_bound <= 0 or self.agreement <= 0 or not 0 < self.confidence < 1:
            raise UsageError(
                f"found a spread of {self.spread_bound}, an agreement of {self.agreement} and a confidence of {self.confidence}; "
                "the first two must be above 0, the last between 0 and 1"
            )
        if (self.warmup_s is not None and self.warmup_s < 0) or (self.samples is not None and self.samples < 1):
            raise UsageError(
                f"found {self.samples} samples after {self.warmup_s} s of warm-up; at least 1 and 0 s are needed"
            )
        for percentile in self.percentiles:
            if not 0 < percentile < 100:
                raise UsageError(
                    f"{percentile:g} is no percentile; write numbers between 0 and 100, for example 50,90,99"
                )


RULES = Rules()
"""The house's rules."""

"""In which frames which task runs. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from bmtas.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """Rates as fractions of the frames, and the phase of each task.

    Frame i (from 0) runs task t if floor((i + phase) rate) is not floor((i - 1 + phase) rate): rate 1/5 with phase 0 is frames 0, 5,
    10, ..., with phase 4 frames 1, 6, 11, ... The tasks that do not run in every frame begin at frames 0, 1, 2, ... in the
    order in which they were given (phases 0, -1, -2, ..., modulo the rate's denominator): tasks of one rate run in different
    frames, so that no frame pays for all of them. Tasks without a rate do not run.
    """

    rates: Mapping[str, Fraction]
    phases: Mapping[str, int]

    @classmethod
    def parse(cls, rates: Mapping[str, str]) -> Schedule:
        """Read rates such as `1`, `1/5` or `0.2` by task. Raises UsageError for anything but numbers above 0 and up to 1."""
        parsed = {task: _rate(task, text) for task, text in rates.items()}
        if not parsed:
            raise UsageError("the schedule names no task; give at least one rate, such as semseg=1 or depth=1/5")
        slow = [task for task, rate in parsed.items() if rate < 1]
        phases = {task: -slow.index(task) % rate.denominator if task in slow else 0 for task, rate in parsed.items()}
        return cls(parsed, phases)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a rate, in the order given."""
        return tuple(self.rates)

    def due(self, frame: int) -> tuple[str, ...]:
        """Return the tasks that run in `frame`, which counts from 0."""
        return tuple(t for t, rate in self.rates.items() if _runs(frame + self.phases[t], rate))


def _runs(position: int, rate: Fraction) -> bool:
    return math.floor(position * rate) != math.floor((position - 1) * rate)


def _rate(task: str, text: str) -> Fraction:
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1:
        raise UsageError(
            f"task {task!r}: the rate {text!r} is no fraction of the frames above 0 and up to 1; write 1, 1/5 or 0.2"
        )
    return rate

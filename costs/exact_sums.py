"""Sums of costs as people write them: 0.3 + 0.4 + 0.5 is 1.2, and the same whatever the order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

MOST_DIGITS = 15
"""Decimal numbers of up to so many digits survive being a float64."""


def as_decimal(value: float) -> Decimal | None:
    """Return a number as it is written, None if it has more than 15 digits, as what was computed mostly has."""
    written = Decimal(repr(value))
    return written if len(written.normalize().as_tuple().digits) <= MOST_DIGITS else None


def exact_sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once: of numbers as they are written where all have up to 15 digits, else as floats."""
    listed = list(values)
    written = [as_decimal(value) for value in listed]
    if any(value is None for value in written):
        return math.fsum(listed)
    return float(sum((value for value in written if value is not None), Decimal(0)))


def exact_multiple(count: int, value: float) -> float:
    """Return `count` times a number, as `exact_sum` adds it up."""
    return exact_sum([value] * count) if count > 1 else count * value

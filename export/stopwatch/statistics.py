"""Order statistics: what a sample says of a median, a percentile or a ratio, at a stated confidence. Needs no SciPy.

The median's interval is the wider of two. The first is the interval of order statistics, exact for independent samples of any
distribution. Latencies are not independent, so the second takes the spread of the medians of consecutive sections of the
sample ("sectioning": Asmussen and Glynn, Stochastic Simulation, 2007, III.5a; Nakayama, ACM TOMACS 24(4), 2014): the sample's own
median, plus and minus Student's t times the standard error that the sections show.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

LEAST_SECTIONS, MOST_SECTIONS = 5, 10
"""So many sections a sample is cut into; fewer say little, more are so short that neighbours depend on each other."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies at `confidence`."""

    low: float
    high: float
    confidence: float


@functools.lru_cache(maxsize=256)
def binomial_cdf(n: int, p: float) -> Numbers:
    """Return P(X <= k) for k = 0 to n, X being the number of successes of n trials of probability p, 0 < p < 1."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + (math.log(p) - math.log1p(-p))
    logarithms = n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(np.minimum(np.cumsum(np.exp(logarithms)), 1.0))


@functools.lru_cache(maxsize=256)
def needed(percentile: float, confidence: float) -> int:
    """Return how many samples support the upper bound of a percentile with one sample above it.

    The least n with P(at most one of n samples lies above the percentile) <= 1 - confidence, as MLPerf's LoadGen takes it for early
    stopping with one discard: at 99 %, 11 for p50, 64 for p90, 130 for p95, 662 for p99, 6636 for p99.9. With fewer the bound
    would be the sample's maximum under another name, and one disturbed run would be the result.
    """
    p = percentile / 100

    def missed(n: int) -> float:
        return float(p**n + n * (1 - p) * p ** (n - 1))

    high = 2
    while missed(high) > 1 - confidence:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if missed(middle) > 1 - confidence else (low, middle)
    return high


def upper_rank(n: int, percentile: float, confidence: float) -> int | None:
    """Return the least rank (from 1) whose order statistic is at least the percentile with `confidence`; None with too few samples."""
    if n < needed(percentile, confidence):
        return None
    # The r-th smallest is below the quantile if r or more samples are, so P(fewer than r are) must reach the confidence.
    return int(np.searchsorted(binomial_cdf(n, percentile / 100)[:n], confidence)) + 1


def median_ranks(n: int, confidence: float) -> tuple[int, int] | None:
    """Return the ranks (from 1) between which the median lies with `confidence`; None where even minimum and maximum do not do.

    Exact for independent samples: P(X_(l) <= median <= X_(n+1-l)) = 1 - 2 P(Binomial(n, 1/2) < l).
    """
    tails = binomial_cdf(n, 0.5)
    rank = int(np.searchsorted(tails, (1 - confidence) / 2, side="right"))
    return (rank, n + 1 - rank) if rank >= 1 else None


@functools.lru_cache(maxsize=256)
def student_t(confidence: float, degrees: int) -> float:
    """Return the t with P(|T| <= t) = `confidence` for Student's distribution of `degrees` degrees of freedom.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4, solved by bisection.
    """
    low, high = 0.0, 1.0
    while _within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """Return P(|T| <= t)."""
    theta = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(odd, degrees - 1, 2):
        total += term
        term *= (k + 1) / (k + 2) * math.cos(theta) ** 2
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def section_ends(n: int, sections: int) -> list[int]:
    """Return where each of `sections` consecutive parts of n samples ends, as equal as they can be."""
    return [n * (i + 1) // sections for i in range(sections)]


def sections_of(n: int, windows: int) -> list[int]:
    """Return the ends of the sections of a sample that was taken in so many windows; none where it is too small."""
    count = min(max(windows, LEAST_SECTIONS), MOST_SECTIONS)
    return section_ends(n, count) if n >= count else section_ends(n, n) if n >= LEAST_SECTIONS else []


def sectioned(
    value: Callable[..., float], series: Sequence[Numbers], ends: Sequence[int], confidence: float
) -> Interval | None:
    """Return where `value` of the whole series lies, from its spread over the sections that end at `ends`; None without sections."""
    if len(ends) < LEAST_SECTIONS:
        return None
    starts = [0, *ends[:-1]]
    parts = [value(*(each[a:b] for each in series)) for a, b in zip(starts, ends, strict=True)]
    error = float(np.std(parts, ddof=1)) / math.sqrt(len(parts)) * dependence(parts)
    half, centre = student_t(confidence, len(parts) - 1) * error, value(*series)
    return Interval(centre - half, centre + half, confidence)


def dependence(parts: Sequence[float]) -> float:
    """Return by how much consecutive sections that resemble their neighbours understate the standard error: sqrt((1 + r) / (1 - r)).

    r is their correlation at lag 1, without the 1/k by which k values understate it, and from 0 to 0.8.
    """
    numbers = np.asarray(parts) - np.mean(parts)
    square = float(numbers @ numbers)
    correlation = float(numbers[:-1] @ numbers[1:]) / square + 1 / len(parts) if square > 0 else 0.0
    bounded = min(max(correlation, 0.0), 0.8)
    return math.sqrt((1 + bounded) / (1 - bounded))


def median(values: Numbers) -> float:
    """Return the median."""
    return float(np.median(values))


def median_interval(values: Numbers, windows: int, confidence: float) -> Interval | None:
    """Return where the median lies: the wider of both intervals named above; None for fewer than LEAST_SECTIONS samples."""
    found = sectioned(median, [values], sections_of(len(values), windows), confidence)
    ranks = median_ranks(len(values), confidence)
    if found is None or ranks is None:
        return found
    ordered = np.sort(values)
    low, high = float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])
    return Interval(min(found.low, low), max(found.high, high), confidence)


def trend_probability(values: Sequence[float]) -> tuple[float, float]:
    """Return the change from the first to the last value along their trend, and the probability of so clear a one by chance.

    The change is Theil's and Sen's slope (the median of the slopes of all pairs) times the length; the probability that of the test of Mann and
    Kendall, two-sided, exact up to 30 values and normal above. Needs at least 3 values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    first, second = np.triu_indices(n, 1)
    differences = numbers[second] - numbers[first]
    change = float(np.median(differences / (second - first))) * (n - 1)
    score = abs(int(np.sign(differences).sum()))
    if n > 30:
        deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
        return change, math.erfc(max(score - 1, 0) / deviation / math.sqrt(2))
    pairs = n * (n - 1) // 2
    discordant = (pairs - score) // 2  # with at most so many pairs out of order it is as clear a trend, or clearer
    return change, min(1.0, 2 * sum(_orders(n)[: discordant + 1]) / math.factorial(n))


@functools.lru_cache(maxsize=64)
def _orders(n: int) -> tuple[int, ...]:
    """Return how many orders of n things have k pairs out of order, k = 0, 1, ...: Mahonian numbers."""
    counts: list[int] = [1]
    for size in range(2, n + 1):
        counts = [sum(counts[max(0, k - size + 1) : k + 1]) for k in range(len(counts) + size - 1)]
    return tuple(counts)


def outliers(values: Numbers) -> tuple[float, list[int]]:
    """Return the bound above which a sample is called an outlier, and the positions of those: median + 5 scaled MADs.

    The median absolute deviation is scaled by 1.4826, which makes it the standard deviation where the noise is normal.
    """
    middle = median(values)
    bound = middle + 5 * 1.4826 * median(np.abs(values - middle))
    positions: Any = np.flatnonzero(values > bound)
    return bound, [int(i) for i in positions]

"""Order statistics against SciPy, enumeration and the numbers that LoadGen's rule is known by."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from export.stopwatch import judge
from export.stopwatch.interleaved import apart_ratio, in_turn_difference, in_turn_ratio
from export.stopwatch.statistics import (
    binomial_cdf,
    dependence,
    median_interval,
    median_ranks,
    needed,
    sections_of,
    student_t,
    trend_probability,
    upper_rank,
)


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (7, 0.3), (130, 0.95), (6636, 0.999), (50_000, 0.5)])
def test_the_binomial_distribution_is_scipy_s(n: int, p: float) -> None:
    assert binomial_cdf(n, p) == pytest.approx(scipy.stats.binom.cdf(np.arange(n + 1), n, p), abs=1e-10)


@pytest.mark.parametrize(
    ("degrees", "confidence"), list(itertools.product([1, 2, 3, 4, 5, 9, 30, 31], [0.5, 0.95, 0.99]))
)
def test_student_s_t_is_scipy_s(degrees: int, confidence: float) -> None:
    assert student_t(confidence, degrees) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


@pytest.mark.parametrize(("percentile", "samples"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_percentiles_need_what_loadgen_s_early_stopping_needs(percentile: float, samples: int) -> None:
    """MLPerf's table for 99 % confidence and one discard; and SciPy agrees that one fewer does not do."""
    assert needed(percentile, 0.99) == samples
    above = [scipy.stats.binom.cdf(1, n, 1 - percentile / 100) for n in (samples - 1, samples)]
    assert above[0] > 0.01 >= above[1]


@pytest.mark.parametrize(("n", "percentile"), [(11, 50), (64, 90), (100, 90), (662, 99), (2000, 99), (999, 50)])
def test_the_bound_of_a_percentile_is_the_least_order_statistic_that_does(n: int, percentile: float) -> None:
    rank = upper_rank(n, percentile, 0.99)
    assert rank is not None
    assert rank < n  # never the maximum
    # The r-th smallest is below the percentile if r or more samples are.
    held = [scipy.stats.binom.cdf(r - 1, n, percentile / 100) for r in (rank - 1, rank)]
    assert held[0] < 0.99 <= held[1]
    assert upper_rank(needed(percentile, 0.99) - 1, percentile, 0.99) is None


def test_the_median_s_ranks_hold_their_confidence_and_no_narrower_ones_do() -> None:
    assert median_ranks(7, 0.99) is None  # even minimum and maximum hold the median in 98.4 % alone
    assert median_ranks(8, 0.99) == (1, 8)
    for n in (20, 101, 1000):
        low, high = median_ranks(n, 0.99) or (0, 0)
        assert high == n + 1 - low
        held = [1 - 2 * scipy.stats.binom.cdf(k - 1, n, 0.5) for k in (low, low + 1)]
        assert held[0] >= 0.99 > held[1]


def test_the_trend_s_probability_is_kendall_s() -> None:
    rng = np.random.default_rng(3)
    for n in (3, 5, 8, 12, 30):
        values = rng.normal(size=n) + 0.1 * np.arange(n)
        exact = scipy.stats.kendalltau(np.arange(n), values, method="exact").pvalue
        assert trend_probability(values)[1] == pytest.approx(exact, rel=1e-9)
    assert trend_probability([1.0, 2.0, 3.0, 4.0, 5.0]) == (4.0, pytest.approx(2 / 120))
    long = rng.normal(size=60) + 0.02 * np.arange(60)
    exact = scipy.stats.kendalltau(np.arange(60), long, method="exact").pvalue
    assert trend_probability(long)[1] == pytest.approx(exact, rel=0.15)
    slope = scipy.stats.theilslopes(long, np.arange(60)).slope
    assert trend_probability(long)[0] == pytest.approx(59 * slope)


def test_sections_are_equal_and_as_many_as_windows_within_five_and_ten() -> None:
    assert sections_of(4, 9) == []
    assert sections_of(5, 9) == [1, 2, 3, 4, 5]
    assert sections_of(23, 2) == [4, 9, 13, 18, 23]
    assert sections_of(1000, 700) == [100 * i for i in range(1, 11)]


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    # By hand: deviations -2 -1 0 1 2, products of neighbours 2 + 0 + 0 + 2 = 4 of 10, and 1/5 more: r = 0.6.
    assert dependence([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.0)
    assert dependence([1.0, 5.0, 1.0, 5.0, 1.0, 5.0]) == 1.0
    assert dependence([2.0] * 5) == 1.0


def test_the_median_s_interval_by_hand() -> None:
    # Sections of one: 10 12 11 9 13, median 11, standard deviation sqrt(2.5), t of 4 degrees 4.604.
    found = median_interval(np.array([10.0, 12.0, 11.0, 9.0, 13.0]), 5, 0.99)
    half = 4.604095 * np.sqrt(2.5 / 5) * dependence([10.0, 12.0, 11.0, 9.0, 13.0])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(11 - half, rel=1e-6), pytest.approx(11 + half, rel=1e-6))


def test_what_slows_both_down_leaves_their_ratio_alone() -> None:
    rng = np.random.default_rng(1)
    weather = np.repeat(rng.uniform(1, 3, 20), 20)  # a machine that is now fast, now slow
    first, second = (judge(base * weather * rng.lognormal(0, 0.002, 400)) for base in (12.0, 10.0))
    found = in_turn_ratio(first, second)
    assert found.interval is not None
    assert found.interval.low < 1.2 < found.interval.high
    assert found.interval.high - found.interval.low < 0.05
    assert found.differs
    apart = apart_ratio(first.latencies_ms, second.latencies_ms, (8, 8))
    assert apart.interval is not None
    assert apart.interval.high - apart.interval.low > 0.3
    assert not apart.differs
    difference, interval = in_turn_difference(first, second)
    assert interval is not None
    assert interval.low < difference < interval.high
    assert interval.low < 2 * np.median(weather) < interval.high


@pytest.mark.parametrize("paired", [True, False])
def test_the_true_ratio_lies_in_the_interval(paired: bool) -> None:
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        one, other = (list(base * rng.lognormal(0, 0.05, 200)) for base in (10.0, 10.5))
        found = in_turn_ratio(judge(one), judge(other)) if paired else apart_ratio(one, other, (8, 8))
        assert found.interval is not None
        hits += found.interval.low <= 10 / 10.5 <= found.interval.high
    assert hits >= 95


def test_few_samples_tell_no_difference() -> None:
    assert in_turn_ratio(judge([1.0, 1.0]), judge([2.0, 2.0])).differs is None
    assert apart_ratio([1.0] * 4, [2.0] * 9, (5, 5)).to_json()["differs"] is None


def test_sections_that_resemble_their_neighbours_widen_the_interval_of_measurements_apart() -> None:
    # Ten sections whose logarithms are 0, 0.01, ... 0.09, so 0.01 times -4.5 ... 4.5 about their mean: the sum of products of neighbours
    # is 57.75, that of squares 82.5. Their correlation of 0.7, and 1/10 for the sample's size, makes sqrt(1.8 / 0.2) = 3.
    drifting = [math.exp(0.01 * section) for section in range(10) for _ in range(20)]
    found = apart_ratio(drifting, [1.0] * 200, (10, 10))
    assert found.interval is not None
    error = 0.01 * math.sqrt(82.5 / 9) / math.sqrt(10)
    half = scipy.stats.t.ppf(0.995, 9) * 3 * error
    assert math.log(found.interval.high / found.value) == pytest.approx(half)
    assert math.log(found.interval.low / found.value) == pytest.approx(-half)


def test_the_interval_of_a_ratio_stays_above_0() -> None:
    # Five rounds whose ratios are 1, 100, 1, 100 and 1: the standard deviation of their logarithms is ln 100 times sqrt(0.3).
    found = in_turn_ratio(judge([1.0, 100.0, 1.0, 100.0, 1.0]), judge([1.0] * 5))
    assert found.interval is not None
    half = scipy.stats.t.ppf(0.995, 4) * math.log(100) * math.sqrt(0.3 / 5)
    assert (found.value, found.interval.low) == (1.0, pytest.approx(math.exp(-half)))
    assert found.interval.high == pytest.approx(math.exp(half))

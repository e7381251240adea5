"""The stopwatch's rounds: who is measured when, and what a short sample supports."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bmtas.errors import UsageError
from export.stopwatch import Rules, Timed, judge, measure, ratio, summarise, timed


def test_candidates_are_measured_in_turn_and_the_order_turns() -> None:
    calls: list[str] = []
    rounds: list[int] = []

    def candidate(name: str, milliseconds: float) -> Timed:
        def once() -> float:
            calls.append(name)
            return milliseconds + len(calls)

        return once

    measured = measure(
        {"a": candidate("a", 100), "b": candidate("b", 200), "c": candidate("c", 300)},
        samples=2,
        warmup=1,
        tick=lambda: rounds.append(len(calls)),
    )
    assert calls == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert rounds == [3, 6, 9]
    # Calls 4 to 9 count; the first three are the warm-up.
    assert measured == {"a": [106, 108], "b": [204, 209], "c": [305, 307]}


def test_a_call_is_timed_by_this_process_s_clock() -> None:
    start = time.perf_counter()
    told = timed(lambda: time.sleep(0.02))()
    assert 20 <= told <= (time.perf_counter() - start) * 1000


def test_a_summary_gives_only_what_the_sample_supports() -> None:
    few = summarise([3.0, 1.0, 2.0, 4.0, 5.0])
    assert (few["samples"], few["median_ms"], few["min_ms"], few["max_ms"]) == (5, 3, 1, 5)
    assert (few["q1_ms"], few["q3_ms"]) == (2, 4)
    assert few["spread"] == pytest.approx(2 / 3)
    assert few["p90_ms"] is None
    assert few["percentiles"]["p90"]["needed"] == 64
    values = list(np.random.default_rng(0).exponential(size=64))
    assert summarise(values[:63])["p90_ms"] is None
    assert summarise(values)["p90_ms"] == pytest.approx(np.percentile(values, 90))


def test_of_fewer_than_five_samples_nothing_is_said_but_the_median() -> None:
    found = judge([1.0, 2.0, 9.0])
    assert (found.median_ms, found.interval, found.window_spread, found.stable) == (2.0, None, None, False)
    assert "0 windows were measured" in found.unmet[0]


def test_outliers_are_listed_by_position_and_stay() -> None:
    # Median 10; deviations 0.1 and 0 (half each, so the MAD is 0.1, scaled 0.148): the bound is 10.74.
    values = [10.0, 10.1, 9.9, 10.1, 9.9, 10.0, 10.1, 9.9, 10.1, 9.9, 10.0, 10.8, 10.7, 30.0]
    found = judge(values)
    assert found.outliers.bound_ms == pytest.approx(10.0 + 5 * 1.4826 * 0.1, abs=0.06)
    assert found.outliers.positions == (11, 13)
    assert found.latencies_ms == tuple(values)
    assert found.to_json()["max_ms"] == 30.0


def test_a_ratio_pairs_what_was_measured_in_the_same_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])["median"] == 3
    assert ratio([6.0], [2.0]) == {"median": 3, "q1": 3, "q3": 3}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"window_s": 0.0}, "windows of 0.0 s"),
        ({"time_cap_s": 0.0}, "time cap of 0.0 s"),
        ({"spread_bound": 0.0}, "spread of 0.0"),
        ({"confidence": 1.0}, "confidence of 1.0"),
        ({"percentiles": (50.0, 100.0)}, "100 is no percentile"),
        ({"samples": 0}, "0 samples"),
        ({"warmup_s": -1.0}, "-1.0 s of warm-up"),
        ({"time_cap_s": float("nan")}, "time_cap_s = nan"),
        ({"time_cap_s": float("inf")}, "time_cap_s = inf"),
        ({"spread_bound": float("nan")}, "spread_bound = nan"),
        ({"warmup_s": float("nan")}, "warmup_s = nan"),
        ({"percentiles": (50.0, float("nan"))}, "percentiles = 50, nan"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Rules(**rules)  # type: ignore[arg-type]


def test_an_interval_of_a_restless_sample_does_not_reach_below_nothing() -> None:
    found = judge([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 100.0, 100.0])
    # Five sections of two have the medians 1, 1, 1, 1 and 100: 1 less Student's t times their standard error is far below 0.
    assert found.interval is not None
    assert found.interval.low == 0.0
    assert found.interval.high > 50

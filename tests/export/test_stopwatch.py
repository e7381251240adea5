"""The stopwatch: who is measured when, and what the numbers support."""

from __future__ import annotations

import numpy as np
import pytest

from export.stopwatch import measure, ratio, summarise


def test_candidates_are_measured_in_turn_and_the_order_turns() -> None:
    calls: list[str] = []
    rounds: list[int] = []

    def candidate(name: str, milliseconds: float):  # type: ignore[no-untyped-def]
        def timed() -> float:
            calls.append(name)
            return milliseconds + len(calls)

        return timed

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


def test_a_summary_gives_only_percentiles_that_the_sample_supports() -> None:
    few = summarise([3.0, 1.0, 2.0, 4.0, 5.0])
    assert (few["samples"], few["median_ms"], few["min_ms"], few["max_ms"]) == (5, 3, 1, 5)
    assert (few["q1_ms"], few["q3_ms"]) == (2, 4)
    assert few["spread"] == pytest.approx(2 / 3)
    assert few["p90_ms"] is None
    assert few["p99_ms"] is None
    ten = summarise([float(i) for i in range(1, 11)])
    assert ten["p90_ms"] == pytest.approx(9.1)  # 0.9 * 9 = 8.1 places after the first
    assert ten["p99_ms"] is None
    many = np.random.default_rng(0).exponential(size=100)
    assert summarise(list(many))["p99_ms"] == pytest.approx(np.percentile(many, 99))


def test_a_ratio_pairs_what_was_measured_in_the_same_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])["median"] == 3
    assert ratio([6.0], [2.0]) == {"median": 3, "q1": 3, "q3": 3}

"""The stopwatch against workloads whose duration, noise and drift are known; a clock of their own, no sleep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from export.stopwatch import RULES, Measurement, Rules, watch

BASE_MS = 10.0


class Workload:
    """Takes `BASE_MS` times what `shape` says of (its generator, the time in s), on a clock of its own."""

    def __init__(self, seed: int, shape: Callable[[np.random.Generator, float], float]) -> None:
        self.rng, self.shape, self.now = np.random.default_rng(seed), shape, 0.0

    def clock(self) -> float:
        return self.now

    def __call__(self) -> float:
        took = BASE_MS * self.shape(self.rng, self.now)
        self.now += took / 1000
        return took


def measured(seed: int, shape: Callable[[np.random.Generator, float], float], rules: Rules = RULES) -> Measurement:
    workload = Workload(seed, shape)
    return watch({"it": workload}, rules, clock=workload.clock)["it"]


def white(rng: np.random.Generator, _: float) -> float:
    return float(rng.lognormal(0, 0.03))


def skewed(rng: np.random.Generator, _: float) -> float:
    return 1 + 0.05 * float(rng.exponential())


def spikes(rng: np.random.Generator, _: float) -> float:
    return float(rng.lognormal(0, 0.01)) * (4 if rng.random() < 0.05 else 1)


class Correlated:
    """AR(1) noise: each deviation is 0.9 of the one before and something new; standard deviation 2 %."""

    def __init__(self) -> None:
        self.deviation = 0.0

    def __call__(self, rng: np.random.Generator, _: float) -> float:
        self.deviation = 0.9 * self.deviation + math.sqrt(1 - 0.81) * rng.standard_normal()
        return 1 + 0.02 * self.deviation


# The median of each: of 1 + 0.05 E, E exponential, 1 + 0.05 ln 2; with 5 % of spikes above all else the quantile 0.5 / 0.95 of the rest.
@pytest.mark.parametrize(
    ("shape", "median"),
    [
        (lambda: white, 1.0),
        (lambda: skewed, 1 + 0.05 * math.log(2)),
        (lambda: spikes, math.exp(0.01 * 0.0660118)),
        (Correlated, 1.0),
    ],
    ids=["white", "skewed", "spikes", "correlated"],
)
def test_the_true_median_lies_in_the_interval(
    shape: Callable[[], Callable[[np.random.Generator, float], float]], median: float
) -> None:
    rules = replace(RULES, time_cap_s=20.0)
    hits = 0
    for seed in range(100):
        found = measured(seed, shape(), rules).interval
        assert found is not None
        hits += found.low <= BASE_MS * median <= found.high
    assert hits >= 95


def test_a_quiet_workload_is_stable_and_measured_no_longer_than_needed() -> None:
    for seed in range(20):
        found = measured(seed, white)
        assert found.stable
        assert found.unmet == ()
        assert found.warmup.settled
        assert found.warmup.seconds < 6
        assert 4.0 <= sum(found.latencies_ms) / 1000 < 12  # eight windows of half a second, and more by chance


@pytest.mark.parametrize("per_second", [0.01, -0.01, 0.005])
def test_a_drift_is_declared_unstable(per_second: float) -> None:
    rules = replace(RULES, time_cap_s=20.0)
    for seed in range(20):
        found = measured(seed, lambda rng, now: float((1 + per_second * now) * rng.lognormal(0, 0.01)), rules)
        assert not found.stable
        assert any("it drifts" in reason for reason in found.unmet)
        assert found.trend is not None
        assert math.copysign(1, found.trend) == math.copysign(1, per_second)


def test_a_step_is_declared_unstable() -> None:
    rules = replace(RULES, time_cap_s=20.0, least_windows=20)
    for seed in range(20):
        found = measured(seed, lambda rng, now: (1.05 if now > 9 else 1.0) * float(rng.lognormal(0, 0.01)), rules)
        assert not found.stable
        assert any("spread by" in reason for reason in found.unmet)


def test_warm_up_waits_until_windows_agree() -> None:
    # 40 % too slow at first, halved every 0.7 s: two windows agree within 2 % from about 3 s on.
    found = measured(0, lambda rng, now: 1 + 0.4 * 2 ** (-now / 0.7) + 0.001 * rng.standard_normal())
    assert found.warmup.settled
    assert 2.5 < found.warmup.seconds < 4.5
    assert max(found.latencies_ms) < 1.05 * BASE_MS
    never = measured(0, lambda rng, now: 1 + now, replace(RULES, most_warmup_s=3.0, time_cap_s=2.0))
    assert never.warmup.settled is False
    assert 3.0 <= never.warmup.seconds < 3.2
    given = measured(0, white, replace(RULES, warmup_s=1.0))
    assert given.warmup.settled is None
    assert 1.0 <= given.warmup.seconds < 1.02
    assert measured(0, white, replace(RULES, warmup_s=0.0)).warmup.rounds == 0


def test_it_goes_on_until_percentiles_are_supported_or_time_is_up() -> None:
    found = measured(0, white, replace(RULES, percentiles=(50.0, 99.0)))
    assert 662 <= len(found.latencies_ms) < 662 + 60  # and the rest of that window
    ninety_nine = found.percentiles[1]
    assert ninety_nine.value_ms == pytest.approx(np.percentile(found.latencies_ms, 99))
    assert ninety_nine.bound_ms is not None
    assert ninety_nine.bound_ms < max(found.latencies_ms)
    short = measured(0, white, replace(RULES, percentiles=(99.0,), time_cap_s=4.5))
    assert short.stable
    assert short.percentiles[0].value_ms is None
    assert short.unmet == (f"p99 needs 662 samples at 99% confidence, there are {len(short.latencies_ms)}",)


def test_a_fixed_number_of_samples_is_kept() -> None:
    ticks: list[None] = []
    one, two = Workload(0, white), Workload(1, white)
    rules = replace(RULES, samples=30, warmup_s=0.5)
    found = watch({"one": one, "two": two}, rules, lambda: ticks.append(None), lambda: one.now + two.now)
    assert [len(m.latencies_ms) for m in found.values()] == [30, 30]
    assert len(ticks) == 30 + found["one"].warmup.rounds
    assert found["one"].window_ends[-1] == 30  # windows of half a second were too few: ten equal parts stand for them
    assert len(found["one"].window_ends) == 10


def test_candidates_share_windows_and_each_is_judged_on_its_own() -> None:
    quiet, drifting = Workload(0, white), Workload(1, lambda rng, now: 1 + 0.05 * now)
    rules = replace(RULES, time_cap_s=10.0)
    found = watch({"quiet": quiet, "drifting": drifting}, rules, clock=lambda: quiet.now + drifting.now)
    assert found["quiet"].window_ends == found["drifting"].window_ends
    assert found["quiet"].stable
    assert not found["drifting"].stable


def test_on_the_real_clock() -> None:
    """A busy loop that ends by the clock takes the time that it was given."""

    def busy() -> float:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.002:
            pass
        return (time.perf_counter() - start) * 1000

    rules = replace(RULES, window_s=0.05, least_warmup_s=0.1, most_warmup_s=0.5, time_cap_s=1.0)
    start = time.perf_counter()
    found = watch({"busy": busy}, rules)["busy"]
    passed = time.perf_counter() - start
    assert found.interval is not None
    assert found.interval.high >= 2.0
    assert min(found.latencies_ms) >= 2.0
    assert found.warmup.seconds + sum(found.latencies_ms) / 1000 <= passed

"""The house's stopwatch: candidates measured in turn, so that whatever else the machine does hits all of them alike.

Needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from export.stopwatch.measurement import Measurement, WarmUp, judge, restless, unsupported, window_medians
from export.stopwatch.rules import RULES, Rules
from export.stopwatch.timing import Clock, Timed

Latencies = dict[str, list[float]]
Tick = Callable[[], None]


def nothing() -> None:
    """Do nothing; what a round tells where nobody listens."""


class Rounds:
    """Rounds of all candidates, one run of each. The order turns, so that no candidate always follows the same neighbour."""

    def __init__(self, candidates: Mapping[str, Timed], tick: Tick = nothing) -> None:
        """Take the candidates; `tick` is called after each round."""
        self._candidates, self._names, self._tick = candidates, list(candidates), tick
        self._turn = 0

    def __call__(self, into: Latencies) -> None:
        """Run one round and append to `into` what each candidate took."""
        shift = self._turn % len(self._names)
        for name in self._names[shift:] + self._names[:shift]:
            into[name].append(self._candidates[name]())
        self._turn += 1
        self._tick()

    def empty(self) -> Latencies:
        """Return latencies of no round yet."""
        return {name: [] for name in self._names}


def measure(candidates: Mapping[str, Timed], *, samples: int, warmup: int, tick: Tick = nothing) -> Latencies:
    """Return `samples` latencies in ms of each candidate, one of each per round, after `warmup` rounds.

    For short comparisons within other work; `watch` decides itself how long to measure, and says what the sample supports.
    """
    rounds = Rounds(candidates, tick)
    collected = rounds.empty()
    for turn in range(warmup + samples):
        if turn == warmup:
            collected = rounds.empty()
        rounds(collected)
    return collected


def watch(
    candidates: Mapping[str, Timed], rules: Rules = RULES, tick: Tick = nothing, clock: Clock = time.perf_counter
) -> dict[str, Measurement]:
    """Measure all candidates in turn by `rules`, and return what was found of each.

    `tick` is called after each round, warm-up included; `clock` tells the s by which windows, warm-up and the cap are counted.
    Ctrl-C ends it as it ends everything.
    """
    rounds = Rounds(candidates, tick)
    warmup = _warm_up(rounds, rules, clock)
    collected, ends = rounds.empty(), list[int]()
    medians: Latencies = rounds.empty()
    start = window = clock()
    count = 0
    while True:
        rounds(collected)
        count += 1
        now = clock()
        if now - window >= rules.window_s:
            for name, values in collected.items():
                medians[name] += window_medians(values[ends[-1] if ends else 0 :], [count - (ends[-1] if ends else 0)])
            ends.append(count)
            window = now
            if rules.samples is None and _enough(medians, count, rules):
                break
        if count == rules.samples or (rules.samples is None and now - start >= rules.time_cap_s):
            break
    return {name: judge(values, ends, rules, warmup) for name, values in collected.items()}


def _enough(medians: Latencies, count: int, rules: Rules) -> bool:
    return not unsupported(count, rules) and all(not restless(values, rules) for values in medians.values())


def _warm_up(rounds: Rounds, rules: Rules, clock: Clock) -> WarmUp:
    """Run until the candidates have settled, or for the time that was given."""
    start = window = clock()
    given = rules.warmup_s
    current, before = rounds.empty(), dict[str, float]()
    count, settled = 0, False
    while given is None or clock() - start < given:
        rounds(current)
        count += 1
        now = clock()
        if given is not None or now - window < rules.window_s:
            continue
        medians = {name: window_medians(values, [len(values)])[0] for name, values in current.items()}
        settled = bool(before) and all(
            abs(value - before[name]) <= rules.agreement * before[name] for name, value in medians.items()
        )
        if (settled and now - start >= rules.least_warmup_s) or now - start >= rules.most_warmup_s:
            break
        current, before, window = rounds.empty(), medians, now
    return WarmUp(count, clock() - start, settled if given is None else None)

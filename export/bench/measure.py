"""`bmtas bench`: latency of exported networks in their runtimes, and of PyTorch eager beside them where it is installed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bmtas.errors import UsageError
from bmtas.extras import own_version
from bmtas.progress import Progress, Silent
from export.bench.candidates import Candidate, open_candidates
from export.bench.energy import IDLE_S, energy_of, measure_energy, measures_power
from export.bench.layers import layer_times, tells_layers
from export.bench.marginal import has_subsets, marginal
from export.bench.options import BenchOptions
from export.bench.phases import COMPUTE, END_TO_END
from export.bench.report import (
    Energy,
    Frame,
    Frames,
    LayerTimes,
    Margins,
    PacedStats,
    RatioEntry,
    Report,
    Result,
    Settings,
    Stats,
)
from export.machine.identity import device_key, identify
from export.machine.sampler import Sampler
from export.stopwatch import Measurement, Paced, Rules, in_turn_ratio, judge, pace, watch
from export.stopwatch.measurement import WarmUp

PACED = "paced: from the time at which a frame is due to its final predictions; frames are due 1/fps s apart, with sleep in between"


class _Seconds:
    """Turns rounds of any length into a progress bar of seconds."""

    def __init__(self, progress: Progress, name: str, total_s: float) -> None:
        self._progress, self._told, self._total = progress, 0, max(1, math.ceil(total_s))
        self._start = time.monotonic()
        progress.start(name, self._total)

    def __call__(self) -> None:
        passed = min(int(time.monotonic() - self._start), self._total)
        while self._told < passed:
            self._told += 1
            self._progress.advance()


def bench(
    files: Mapping[str, Path],
    *,
    eager: Mapping[str, tuple[Path, str]] | None = None,
    options: BenchOptions | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> Report:
    """Measure all candidates, in turn unless frames come at a pace, and return the content of `bench.json`.

    `files` maps a network's name to its exported file or folder; `eager` maps the names that PyTorch runs too to (run folder, network);
    `command` is what repeats the measurement. Raises what loading the files raises.
    """
    options, progress = options or BenchOptions(), progress or Silent()
    power = measures_power()
    with ExitStack() as stack:
        candidates = open_candidates(files, eager or {}, options, stack)
        divisible = _able(candidates, has_subsets, "--marginal") if options.marginal else []
        telling = _able(candidates, tells_layers, "--layers") if options.layers else []
        device = identify()
        with Sampler(idle_s=IDLE_S if power else 0.0) as sampler:
            measured = (
                _paced(candidates, options, sampler, progress)
                if options.fps
                else _in_turn(candidates, options, progress)
            )
            if not options.fps:
                energy = measure_energy(candidates, sampler) if power else {}
                nothing = Energy(unavailable=sampler.why_no_energy())
                measured = [_with_energy(result, energy.get(result.key, nothing)) for result in measured]
        conditions = sampler.conditions()
        margins = [_margin(c, options, progress) for c in divisible]
        layers = [layer_times(c, options.provider, options.batch) for c in telling]
    return Report(
        written_by=f"bmtas {own_version()}",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        device=device,
        device_key=device_key(device),
        conditions=conditions,
        settings=_settings(options),
        definitions=[COMPUTE, END_TO_END, *([PACED] if options.fps else [])],
        results=measured,
        ratios=[] if options.fps else _ratios(candidates, measured),
        marginal=margins,
        layers=layers,
        notes=_notes(candidates, options, margins, layers),
    )


def _able(candidates: Sequence[Candidate], able: Callable[[Candidate], str | None], option: str) -> list[Candidate]:
    """Return the candidates of files that an option can be had of. Raises UsageError with all reasons if there are none."""
    of_files = [c for c in candidates if c.path is not None]
    reasons = {c.key: able(c) for c in of_files}
    found = [c for c in of_files if reasons[c.key] is None]
    if not found:
        raise UsageError(f"{option}: {'; '.join(f'{key}: {why}' for key, why in reasons.items())}")
    return found


def _with_energy(result: Result, energy: Energy) -> Result:
    """Return `result` with another energy."""
    return result.model_copy(update={"energy": energy})


def length_s(options: BenchOptions) -> float:
    """Return how many seconds a measurement may take, loading not counted."""
    rules = options.rules
    return rules.time_cap_s + (rules.most_warmup_s if rules.warmup_s is None else rules.warmup_s)


def stats(found: Measurement) -> Stats:
    """Return a measurement as it stands in a report."""
    return Stats.model_validate({**found.to_json(), "latencies_ms": list(found.latencies_ms)})


def _in_turn(candidates: Sequence[Candidate], options: BenchOptions, progress: Progress) -> list[Result]:
    tick = _Seconds(progress, "bench", length_s(options))
    found = watch({c.key: c.timed for c in candidates}, options.rules, tick)
    return [_result(c, found[c.key], options.rules) for c in candidates]


def _result(candidate: Candidate, found: Measurement, rules: Rules) -> Result:
    count = len(found.latencies_ms)
    whole = candidate.end_to_end_ms[-count:]
    return Result(
        key=candidate.key,
        threads=candidate.threads,
        **candidate.about,
        compute=stats(found),
        end_to_end=stats(judge(whole, found.window_ends, rules, found.warmup)) if len(whole) == count else None,
        end_to_end_unavailable=candidate.unavailable,
        frames=_frames(candidate, count),
        energy=Energy(),
    )


def _frames(candidate: Candidate, count: int) -> Frames | None:
    cycle = candidate.cycle
    if cycle is None:
        return None
    medians = {i: float(np.median(values[-count:])) for i, values in enumerate(cycle.frames_ms) if values}
    worst = max(medians, key=lambda i: medians[i])
    return Frames(
        rates={task: str(rate) for task, rate in cycle.schedule.rates.items()},
        average_ms=float(np.mean(list(medians.values()))),
        worst_ms=medians[worst],
        worst_frame=worst,
        empty=cycle.period - len(cycle.busy),
        cycle=[Frame(tasks=list(cycle.schedule.due(i)), median_ms=medians.get(i)) for i in range(cycle.period)],
    )


def _paced(
    candidates: Sequence[Candidate], options: BenchOptions, sampler: Sampler, progress: Progress
) -> list[Result]:
    """Measure one candidate after the other, each with frames at a pace."""
    fps, rules = options.fps or 1.0, options.rules
    warm = rules.least_warmup_s if rules.warmup_s is None else rules.warmup_s
    frames = rules.samples or max(1, int(rules.time_cap_s / len(candidates) * fps))
    warmup = math.ceil(warm * fps)
    tick = _Seconds(progress, "bench", (warmup + frames) / fps * len(candidates))
    results = []
    for candidate in candidates:
        computed: list[float] = []
        sampler.read_now()
        start = sampler.clock()
        paced = pace(
            _noting(candidate.frame, computed), fps, frames=frames, warmup=warmup, window_s=rules.window_s, tick=tick
        )
        end = sampler.clock()
        sampler.read_now()
        energy = energy_of(sampler, start, end, _busy(computed), candidate.about["provider"])
        results.append(_paced_result(candidate, paced, computed, energy, WarmUp(warmup, warm, None), rules))
    return results


def _busy(computed: Sequence[float]) -> int:
    """Return in how many frames something ran."""
    return sum(not math.isnan(ms) for ms in computed)


def _noting(run: Callable[[], float], into: list[float]) -> Callable[[], object]:
    return lambda: into.append(run())


def _paced_result(
    candidate: Candidate, paced: Paced, computed: list[float], energy: Energy, warmup: WarmUp, rules: Rules
) -> Result:
    kept = [not math.isnan(ms) for ms in computed[-len(paced.latencies_ms) :]]
    if not any(kept):
        raise UsageError(
            f"{candidate.key}: in none of the {len(kept)} measured frames was a task due; measure more of them (--time-cap, --samples)"
        )
    paced = paced.only(kept)
    count = len(paced.latencies_ms)
    found = judge([ms for ms in computed if not math.isnan(ms)][-count:], paced.window_ends, rules, warmup)
    told = PacedStats(
        fps=paced.fps,
        latency=stats(judge(paced.latencies_ms, paced.window_ends, rules, warmup)),
        start_delay_median_ms=float(np.median(paced.late_ms)),
        misses=paced.misses,
        dropped=paced.dropped,
    )
    result = _result(candidate, found, rules)
    return result.model_copy(update={"paced": told, "energy": energy})


def _ratios(candidates: Sequence[Candidate], results: Sequence[Result]) -> list[RatioEntry]:
    by_key = {result.key: _again(result.compute) for result in results}
    return [
        RatioEntry(first=c.key, second=c.reference, **in_turn_ratio(by_key[c.key], by_key[c.reference]).to_json())
        for c in candidates
        if c.reference is not None
    ]


def _again(found: Stats) -> Measurement:
    return judge(found.latencies_ms, found.window_ends)


def _margin(candidate: Candidate, options: BenchOptions, progress: Progress) -> Margins:
    return marginal(candidate, options, _Seconds(progress, f"tasks of {candidate.key}", length_s(options)))


def _settings(options: BenchOptions) -> Settings:
    rates = options.rates
    return Settings(
        provider=options.provider,
        threads=list(options.threads),
        batch=options.batch,
        rates=None if rates is None else {task: str(rate) for task, rate in rates.rates.items()},
        fps=options.fps,
        rules={**asdict(options.rules), "percentiles": list(options.rules.percentiles)},
    )


def _notes(
    candidates: Sequence[Candidate], options: BenchOptions, margins: Sequence[Margins], layers: Sequence[LayerTimes]
) -> list[str]:
    found = []
    for wanted, told, of in (
        (options.marginal, margins, "costs of tasks"),
        (options.layers, layers, "times of layers"),
    ):
        without = [c.key for c in candidates if c.key not in {each.key for each in told}]
        if wanted and without:
            found.append(f"{of} cannot be told of {', '.join(without)}")
    if options.batch is not None and options.batch > 1:
        found.append(f"latencies are of a batch of {options.batch} images")
    found += [
        f"{c.key}: in {c.cycle.period - len(c.cycle.busy)} of every {c.cycle.period} frames no task is due; they are in no number"
        for c in candidates
        if c.cycle is not None and len(c.cycle.busy) < c.cycle.period
    ]
    if options.fps and any(c.cycle is not None for c in candidates):
        found.append("at a pace, each frame is one of the schedule; the medians are over all frames of its cycle")
    return found

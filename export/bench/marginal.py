"""What each task costs, from networks of subsets of the tasks that are measured in turn; sums of layers would not tell on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bmtas.extras import require
from export.bench.candidates import Candidate, feeder
from export.bench.options import BenchOptions
from export.bench.phases import Phases
from export.bench.report import Margins, TaskMargin
from export.sessions.onnx import OnnxSession
from export.stages.runner import StageRunner
from export.stopwatch import Measurement, in_turn_difference, watch
from export.stopwatch.watch import Tick

ALL = "all"


def has_subsets(candidate: Candidate) -> str | None:
    """Return why a candidate has no networks of fewer tasks to measure; None if it has. Raises EnvironmentProblem without onnx."""
    tasks = candidate.about["tasks"]
    if len(tasks) < 2:
        return f"it has one task, {', '.join(tasks)}; with two there is a difference to tell"
    if isinstance(candidate.loaded, StageRunner):
        return None
    if not isinstance(candidate.loaded, OnnxSession):
        return "only an ONNX file, or the folder that `bmtas export --split-at-branches` writes, has networks of fewer tasks"
    require("onnx", "host")  # before anything is measured; a folder of stages does without
    return None


def marginal(candidate: Candidate, options: BenchOptions, tick: Tick) -> Margins:
    """Return what each task of a candidate that `has_subsets` costs; all its tasks in every frame."""
    tasks = list(candidate.about["tasks"])
    subsets = {
        ALL: tasks,
        **{_alone(t): [t] for t in tasks},
        **{_without(t): [u for u in tasks if u != t] for t in tasks},
    }
    if len(tasks) == 2:  # what is left without one is the other alone
        subsets = {name: s for name, s in subsets.items() if not name.startswith("without")}
    found = watch({name: _subset(candidate, subset, options) for name, subset in subsets.items()}, options.rules, tick)
    margins = {task: _margin(task, tasks, found) for task in tasks}
    whole = found[ALL].median_ms
    return Margins(
        key=candidate.key,
        all_ms=whole,
        tasks=margins,
        shared_ms=whole - sum(m.marginal_ms for m in margins.values()),
        stable=all(m.stable for m in found.values()),
    )


def _margin(task: str, tasks: Sequence[str], found: dict[str, Measurement]) -> TaskMargin:
    rest = found.get(_without(task)) or found[_alone(next(t for t in tasks if t != task))]
    value, interval = in_turn_difference(found[ALL], rest)
    return TaskMargin(
        alone_ms=found[_alone(task)].median_ms,
        without_ms=rest.median_ms,
        marginal_ms=value,
        low_ms=None if interval is None else interval.low,
        high_ms=None if interval is None else interval.high,
    )


def _subset(candidate: Candidate, tasks: list[str], options: BenchOptions) -> Phases:
    """Return the network of some tasks, ready to run: stages that they need, or the pruned ONNX file."""
    loaded = candidate.loaded
    if isinstance(loaded, StageRunner):
        return Phases(feeder(loaded, tasks), loaded.image_spec, loaded.metadata(), options.batch)
    session = OnnxSession(_pruned(candidate, tasks), options.provider, candidate.threads)
    return Phases(feeder(session), session.image_spec, session.metadata(), options.batch)


def _pruned(candidate: Candidate, tasks: list[str]) -> bytes:
    from export.stages.cut import prune

    onnx = require("onnx", "host")
    model: Any = onnx.load(str(candidate.path))
    content: bytes = prune(model, tasks).SerializeToString()
    return content


def _alone(task: str) -> str:
    return f"alone {task}"


def _without(task: str) -> str:
    return f"without {task}"

"""One inference from a camera's picture to final predictions, its parts timed apart. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import numpy as np

from bmtas.errors import UsageError
from export.interface import InputType, Interface, OutputType, tasks_of
from export.proof.units import final_prediction
from export.sessions.protocol import Array, TensorSpec
from export.stages.schedule import Schedule

Tasks = Sequence[str] | None
Run = Callable[[Array, Tasks], dict[str, Array]]

COMPUTE = "compute: from the input in host memory to the raw outputs in host memory, one call of the runtime, copies to and from a GPU included"
END_TO_END = (
    "end to end: from the picture (H, W, 3) uint8 in host memory to the final predictions of all tasks in host memory: compute, and "
    "what pre- and post-processing the file leaves to NumPy"
)


class Phases:
    """Runs a loaded network on one fixed picture of noise, and times compute and the whole apart.

    `end_to_end_ms` has one entry per call; it stays empty for a file that does not say how its input is made and its outputs are read,
    and `unavailable` says so.
    """

    def __init__(self, run: Run, spec: TensorSpec, metadata: dict[str, Any], batch: int | None = None) -> None:
        """Prepare the input. Raises UsageError for a batch that the file does not take or a size that it does not tell."""
        self._run = run
        self.shape = resolved_shape(spec, metadata, batch)
        self.end_to_end_ms: list[float] = []
        self.unavailable: str | None = None
        self.preprocessing = self.postprocessing = None
        self._interface = _interface(metadata)
        if self._interface is None:
            self.unavailable = "the file does not say how its input is made and its outputs are read"
            self.feed = TensorSpec(spec.name, self.shape, spec.dtype).noise()
            return
        uint8 = self._interface.input_type == "uint8"
        size = self.shape[1:3] if uint8 else self.shape[2:4]
        self._pictures = np.random.default_rng(0).integers(0, 256, (self.shape[0], *size, 3), dtype=np.uint8)
        self._kinds = {task.name: task.kind for task in tasks_of(metadata)}
        self.feed = self._prepared()
        self.preprocessing = "in the graph" if uint8 else "NumPy: float32, normalised, planes (N, 3, H, W)"
        told = [f"{t['name']} {t['to_prediction']}" for t in metadata["tasks"]]
        self.postprocessing = "in the graph" if self._interface.final else f"NumPy: {'; '.join(told)}"

    def once(self, tasks: Tasks = None) -> tuple[float, float]:
        """Run once, only `tasks` where they are given; return the ms of compute and of the whole (equal where it is not known)."""
        if self._interface is None:
            start = time.perf_counter_ns()
            self._run(self.feed, tasks)
            compute = (time.perf_counter_ns() - start) / 1e6
            return compute, compute
        start = time.perf_counter_ns()
        feed = self._prepared()
        ready = time.perf_counter_ns()
        outputs = self._run(feed, tasks)
        done = time.perf_counter_ns()
        if not self._interface.final:
            for name, raw in outputs.items():
                final_prediction(self._kinds[name], raw)
        return (done - ready) / 1e6, (time.perf_counter_ns() - start) / 1e6

    def __call__(self) -> float:
        """Run once; return the ms of compute and note those of the whole."""
        compute, whole = self.once()
        if self.unavailable is None:
            self.end_to_end_ms.append(whole)
        return compute

    def _prepared(self) -> Array:
        assert self._interface is not None
        feeds = [self._interface.feed(picture) for picture in self._pictures]
        return feeds[0] if len(feeds) == 1 else np.concatenate(feeds)


class Cycle:
    """The frames of a schedule, until it begins anew: a call runs them all and returns the ms of compute of an average frame.

    Frames in which no task is due do nothing and are in no number; `busy` has the positions of the others. `frames_ms` has, for each
    frame of the cycle, the ms of compute of every time it ran.
    """

    def __init__(self, phases: Phases, schedule: Schedule) -> None:
        self.phases, self.schedule = phases, schedule
        self.period = math.lcm(*(rate.denominator for rate in schedule.rates.values()))
        self.busy = tuple(i for i in range(self.period) if schedule.due(i))
        self.frames_ms: list[list[float]] = [[] for _ in range(self.period)]
        self.end_to_end_ms: list[float] = []
        self._next = 0

    def __call__(self) -> float:
        """Run all frames of the cycle in which a task is due."""
        compute, whole = np.transpose([self._frame(i) for i in self.busy])
        if self.phases.unavailable is None:
            self.end_to_end_ms.append(float(whole.mean()))
        return float(compute.mean())

    def frame(self) -> float:
        """Run the next frame alone; return the ms of compute, NaN for a frame in which no task is due."""
        index, self._next = self._next, (self._next + 1) % self.period
        if index not in self.busy:
            return math.nan
        compute, whole = self._frame(index)
        if self.phases.unavailable is None:
            self.end_to_end_ms.append(whole)
        return compute

    def _frame(self, index: int) -> tuple[float, float]:
        found = self.phases.once(self.schedule.due(index))
        self.frames_ms[index].append(found[0])
        return found


def resolved_shape(spec: TensorSpec, metadata: dict[str, Any], batch: int | None) -> tuple[int, ...]:
    """Return the shape of the input to measure with; a free size is the one that the file names.

    Raises UsageError if `batch` is not what a file with a fixed batch has, or a free dimension has no size.
    """
    first, *rest = spec.shape
    if batch is not None and isinstance(first, int) and first != batch:
        raise UsageError(
            f"--batch {batch}: the file takes a batch of {first}, which is fixed in it; export one whose batch is free with "
            "`bmtas export --dynamic batch`"
        )
    size = dict(zip(("height", "width"), metadata.get("input", {}).get("size", ()), strict=False))
    found = [batch or 1 if isinstance(first, str) else first, *(size.get(str(n), n) for n in rest)]
    if not all(isinstance(n, int) for n in found):
        raise UsageError(
            f"input {spec.name!r} has the shape {spec.shape} and the file names no size; export it with `bmtas export`, or with static shapes"
        )
    return tuple(int(n) for n in found)


def _interface(metadata: dict[str, Any]) -> Interface | None:
    told, outputs = metadata.get("input", {}).get("dtype"), metadata.get("outputs")
    if told not in get_args(InputType) or outputs not in get_args(OutputType) or "tasks" not in metadata:
        return None
    return Interface(cast(InputType, told), cast(OutputType, outputs))

"""`bench.json`: what was measured, on what, how, and what the numbers support. The schema is versioned; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmtas.errors import UsageError
from bmtas.files import first_problem, read_json
from export.machine.model import Conditions, Identity

SCHEMA_VERSION = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PercentileStats(_Part):
    """A percentile and its upper bound at the confidence of the whole; None with fewer samples than `needed`."""

    value_ms: float | None
    bound_ms: float | None
    needed: int


class OutlierStats(_Part):
    """The samples above `above_ms`, by position from 0. They stay in every number."""

    above_ms: float
    positions: list[int]


class WarmUpStats(_Part):
    """How long was warmed up; `settled` is None where that was given."""

    rounds: int
    seconds: float
    settled: bool | None


class Stats(_Part):
    """One sample of latencies in ms in the order in which it was taken, and what `export.stopwatch.Measurement` says of it.

    `low_ms` to `high_ms` is where the median lies at `confidence`. `spread` is the interquartile range over the median,
    `window_spread` the relative standard deviation of the medians of windows, `trend` their relative change.
    """

    samples: int
    median_ms: float
    low_ms: float | None
    high_ms: float | None
    confidence: float | None
    q1_ms: float
    q3_ms: float
    min_ms: float
    max_ms: float
    spread: float
    percentiles: dict[str, PercentileStats]
    outliers: OutlierStats
    window_ends: list[int]
    window_spread: float | None
    trend: float | None
    warmup: WarmUpStats
    stable: bool
    unmet: list[str]
    latencies_ms: list[float]


class Energy(_Part):
    """Energy per inference in mJ by rail, over a run of its own without pause (in paced mode: over the paced frames, pauses included).

    `net_mj` is less what the idle machine takes in the time. Where nothing measures power all is None and `unavailable` says why.
    """

    inferences: int = 0
    seconds: float = 0.0
    sampling_interval_s: float | None = None
    main_rail: str | None = None
    gross_mj: dict[str, float] | None = None
    net_mj: dict[str, float] | None = None
    unavailable: str | None = None


class Frame(_Part):
    """One frame of a schedule's cycle; `median_ms` is None where no task is due, and for a frame that was never run."""

    tasks: list[str]
    median_ms: float | None


class Frames(_Part):
    """The frames of a network in stages whose tasks run at rates of their own: compute per frame.

    `empty` of the cycle's frames have no task that is due; they are in no latency, no average and no energy.
    """

    rates: dict[str, str]
    average_ms: float
    worst_ms: float
    worst_frame: int
    empty: int = 0
    cycle: list[Frame]


class PacedStats(_Part):
    """Frames at a pace: latencies from each frame's due time to its end. `misses` ended after the next one was due.

    `dropped` frames were due and never begun, because a newer one was there when the one before ended.
    """

    fps: float
    latency: Stats
    start_delay_median_ms: float
    misses: int
    dropped: int


class Result(_Part):
    """One network in one runtime with one number of threads."""

    key: str
    network: str
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    runtime: str
    provider: str
    threads: int
    input_shape: list[int]
    precision: str
    tasks: list[str] = []
    costs: dict[str, float] | None = None
    preprocessing: str | None = None
    postprocessing: str | None = None
    compute: Stats
    end_to_end: Stats | None = None
    end_to_end_unavailable: str | None = None
    frames: Frames | None = None
    paced: PacedStats | None = None
    energy: Energy

    @property
    def answers(self) -> Stats:
        """The sample that is judged and compared: latencies from due times where frames came at a pace, compute otherwise."""
        return self.compute if self.paced is None else self.paced.latency


class RatioEntry(_Part):
    """The median of `first` over that of `second`, measured in turn, and where it lies."""

    first: str
    second: str
    ratio: float
    low: float | None
    high: float | None
    confidence: float | None
    differs: bool | None


class TaskMargin(_Part):
    """What a task costs: on its own, what is left without it, and the difference to all, with its interval."""

    alone_ms: float
    without_ms: float | None
    marginal_ms: float
    low_ms: float | None
    high_ms: float | None


class Margins(_Part):
    """The tasks of one result, from networks of subsets measured in turn. Shared layers are in no task's margin, so the sum is not the total."""

    key: str
    all_ms: float
    tasks: dict[str, TaskMargin]
    shared_ms: float
    stable: bool


class Module(_Part):
    """The median ms that the runtime spent per inference in the operations of one module; `tasks` are those that need it."""

    module: str
    tasks: list[str]
    operations: int
    ms: float


class LayerTimes(_Part):
    """Where the time of one result goes, from a run of its own with the runtime's profiler on; the sum is not the total."""

    key: str
    inferences: int
    modules: list[Module]
    unattributed_ms: float
    sum_ms: float
    note: str


class Settings(_Part):
    """What was asked for, so that unlike measurements are not compared."""

    provider: str
    threads: list[int]
    batch: int | None
    rates: dict[str, str] | None
    fps: float | None
    rules: dict[str, Any]


class Report(_Part):
    """The content of `bench.json`. What has one `device_key` and one runtime may be compared."""

    schema_version: int = SCHEMA_VERSION
    written_by: str
    date: str
    command: str | None = None
    device: Identity
    device_key: str | None = None
    conditions: Conditions
    settings: Settings
    definitions: list[str]
    results: list[Result] = Field(min_length=1)
    ratios: list[RatioEntry] = []
    marginal: list[Margins] = []
    layers: list[LayerTimes] = []
    notes: list[str] = []

    def unmet(self) -> list[str]:
        """Return in words what was asked of the measurement and is not there; nothing if all came to rest."""
        by_text: dict[str, list[str]] = {}
        for result in self.results:
            for text in result.answers.unmet:
                by_text.setdefault(text, []).append(result.key)
        everyone = len(self.results) if len(self.results) > 1 else 0
        found = [f"{'all' if len(k) == everyone else ', '.join(k)}: {text}" for text, k in by_text.items()]
        if self.conditions.throttled:
            found.append(f"the device was throttled: {', '.join(self.conditions.throttle_reasons)}")
        return found

    def verdict(self, ratio: RatioEntry) -> str:
        """Return what can be said of two results: nothing where one of them, or both, had not come to rest."""
        if ratio.differs is None:
            return "too few samples to tell"
        stable = {result.key: result.answers.stable for result in self.results}
        unstable = [key for key in (ratio.first, ratio.second) if not stable[key]]
        if unstable:
            return f"no verdict: {' and '.join(unstable)} {'is' if len(unstable) == 1 else 'are'} not stable"
        return "clearly different" if ratio.differs else "no clear difference"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return self.model_dump(mode="json")


def read_report(path: Path) -> Report:
    """Read a report. Raises UsageError if it is missing, damaged, newer, or of schema 1, which has no intervals."""
    data = read_json(path, SCHEMA_VERSION)
    if data["schema_version"] < SCHEMA_VERSION:
        raise UsageError(
            f"{path} follows schema {data['schema_version']}, which has neither windows nor conditions to compare by; measure again "
            "with this version of bmtas"
        )
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}; it was changed, or is no result of `bmtas bench`") from None

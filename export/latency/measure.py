"""Measures a kit, every item in turn with one network that stays the same, in passes over all of them. Needs no torch.

A machine does not run at one speed: clocks, heat and other work change it by more than the tables are to be wrong. So the
all-shared network, the anchor, is measured beside every item, what is kept is the ratio, and each item is visited several
times, far apart. What is measured is written line by line, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import numpy as np

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.files import append_line, file_hash, read_lines
from bmtas.interrupt import Interrupted, stop_between_steps
from bmtas.progress import Progress
from export.latency.kit import ANCHOR, MANIFEST, Kit
from export.latency.setting import Opener, Setting, opener, run_of
from export.latency.visits import Header, Visit, standard_error, visits_of
from export.machine.energy import energy_of_runs, rail_for
from export.machine.identity import Identity, identify, unlike
from export.machine.sampler import Sampler
from export.sessions.protocol import Session
from export.stopwatch import Timed, timed

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_ROUNDS: Final = 4
_RUNS: Final = 3
"""Runs of the item after each run of the anchor."""
_WARMUP: Final = 2


@dataclass(frozen=True)
class Effort:
    """How long is measured: at least `least` passes, then only items whose median is not known to `error`, at most `most` passes.

    `error` is the relative standard error of the median ratio to the anchor. `energy_s`: with a power sensor, run each item for so
    many seconds in each of the first `least` passes; 0 measures no energy.
    """

    least: int = 4
    most: int = 10
    error: float = 0.005
    energy_s: float = 0.0


def measured_path(folder: Path, setting: Setting) -> Path:
    """Return the file in a kit's folder in which the measurements of a setting stand."""
    return folder / f"measured-{setting.label}.jsonl"


def measure_kit(
    folder: Path,
    kit: Kit,
    setting: Setting,
    progress: Progress,
    effort: Effort = Effort(),
    *,
    root: Path = Path("/"),
) -> Path:
    """Measure all items of the kit in `folder` and return the file of lines that holds the measurements.

    Goes on with the file if there is one. Raises UsageError if it is of another machine, kit or setting, Interrupted after a signal,
    and what opening a file raises.
    """
    with _alone(folder):
        return _measure(folder, kit, setting, progress, effort, root)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep out a second measurement of the same kit: both would be wrong. Where the system has no such locks, nobody is kept out."""
    if fcntl is None:
        yield
        return
    with (folder / MANIFEST).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder} is being measured by another process; measurements at the same time disturb each other: wait for it"
            ) from None
        yield


def _measure(folder: Path, kit: Kit, setting: Setting, progress: Progress, effort: Effort, root: Path) -> Path:
    path = measured_path(folder, setting)
    open_item = opener(folder, kit, setting, progress)
    anchor = open_item(ANCHOR)
    header = Header(
        kit=file_hash(folder / MANIFEST),
        setting=setting.label,
        runtime=anchor.runtime,
        provider=anchor.provider,
        device=identify(root).model_dump(mode="json"),
        rail=_rail(anchor.provider, root) if effort.energy_s > 0 else None,
    )
    order = kit.items()  # the anchor among them: as an item it is run like all others, as the anchor once in a while
    with Sampler(root) as sampler, stop_between_steps() as stop:
        done = _begun(path, header)
        visiting = _Visiting(anchor, open_item, effort, sampler, header.rail)
        for number in range(effort.most):
            due = _due(order, done, number, effort)
            progress.start(f"pass {number + 1}", len(order), len(order) - len(due))
            for item in due:
                visit = visiting.visit(number, item)
                append_line(path, visit.model_dump(mode="json"))
                done.append(visit)
                progress.advance()
                if stop.requested:
                    raise Interrupted(stop.signal)
        conditions = sampler.conditions()
        if conditions.throttled:
            progress.note(
                f"the device was throttled meanwhile ({', '.join(conditions.throttle_reasons)}): the table is of a hot device; cool it and "
                "measure again if the network will not run so"
            )
    return path


def _begun(path: Path, header: Header) -> list[Visit]:
    """Return the visits of an earlier, stopped measurement, or begin a file. Raises UsageError if they are of something else."""
    lines = read_lines(path)
    if not lines:
        append_line(path, header.model_dump(mode="json"))
        return []
    found = visits_of(path)
    differences = header.differences(found.header)
    differences += unlike(found.machine, Identity.model_validate(header.device), header.runtime.split()[0])
    if differences:
        raise UsageError(
            f"{path} was begun under other conditions: {'; '.join(differences)}. Times of both cannot stand in one table: rename or "
            "remove that file to begin anew"
        )
    return list(found.visits)


def _rail(provider: str, root: Path) -> str:
    """Return the power rail of what runs the networks. Raises UsageError if nothing measures it."""
    with Sampler(root) as sampler:
        rail = rail_for(sampler, provider)
        if rail is None:
            reasons = "; ".join(sampler.conditions().unavailable.values())
            raise UsageError(
                f"nothing on this machine measures the power of {provider} ({reasons}): leave out --energy"
            )
    return rail


def _due(order: Sequence[str], done: Sequence[Visit], number: int, effort: Effort) -> list[str]:
    """Return the items to visit in a pass, in an order of its own: all in the first passes, then those that are not known well."""
    visited = {visit.item for visit in done if visit.number == number}
    ratios: dict[str, list[float]] = {item: [] for item in order}
    for visit in done:
        if visit.item in ratios:
            ratios[visit.item].append(visit.ratio)
    due = [
        item
        for item in order
        if item not in visited and (number < effort.least or standard_error(ratios[item]) > effort.error)
    ]
    shuffled = np.random.default_rng(number).permutation(len(due))
    return [due[int(i)] for i in shuffled]


class _Visiting:
    """Opens an item, runs it in turn with the anchor, and lets it go."""

    def __init__(self, anchor: Session, open_item: Opener, effort: Effort, sampler: Sampler, rail: str | None) -> None:
        self._open, self._effort, self._sampler, self._rail = open_item, effort, sampler, rail
        self._anchor = timed(run_of(anchor))
        for _ in range(_ROUNDS):
            self._anchor()

    def visit(self, number: int, item: str) -> Visit:
        """Return what one visit of `item` in pass `number` took."""
        run = timed(run_of(self._open(item)))
        for _ in range(_WARMUP):
            run()
        anchor_ms, latency_ms = [], []
        for _ in range(_ROUNDS):
            anchor_ms.append(self._anchor())
            latency_ms += [run() for _ in range(_RUNS)]
        energy = self._energy(run) if self._effort.energy_s > 0 and number < self._effort.least else None
        return Visit(
            number=number,
            item=item,
            anchor_ms=anchor_ms,
            latency_ms=latency_ms,
            energy_mj=energy,
            anchor_energy_mj=None if energy is None else self._energy(self._anchor),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def _energy(self, run: Timed) -> float | None:
        """Return the energy of one run in mJ, over a stretch long enough for its sensor; None where none is asked for."""
        if self._rail is None:
            return None
        energy = energy_of_runs(run, self._sampler, self._effort.energy_s, self._rail)
        if energy is None:
            raise EnvironmentProblem(
                f"the power rail {self._rail} tells no energy ({self._sampler.why_no_energy(self._rail)}): remove the measurement that was begun, "
                "and measure without --energy"
            )
        return energy

"""What search and training have in common: steps that are saved now and then, can be stopped, and leave a history."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bmtas.errors import LostDataError
from bmtas.files import append_line, read_lines, write_text
from bmtas.interrupt import Interrupted, stop_between_steps
from bmtas.losses import diverged
from bmtas.parallel import Parallel
from bmtas.progress import Progress
from bmtas.watch import LossWatch

_MUCH, _SECONDS_WORTH_A_WORD = 0.2, 10.0
_FIRST = 1 / 6
CHECKPOINT_EVERY_S = 30.0  # so often that little is lost, so seldom that it costs little


def run_steps(
    name: str,
    *,
    total: int,
    done: int,
    take: Callable[[int], dict[str, float]],
    save: Callable[[int], bool],
    finish: Callable[[], None],
    progress: Progress,
    checkpoint_every_s: float,
    parallel: Parallel,
    waited_s: Callable[[], float],
) -> None:
    """Take the steps `done` to `total` - 1, then `finish`.

    `take(step)` returns what is worth showing; `save(n)` must write a checkpoint from which step n can be taken and return
    True, or refuse and return False, in all processes alike. `take` raises LostDataError, if at all, before it has changed
    anything; then a checkpoint is written first, by the first process if it is the one that has met it.

    Raises Interrupted after SIGINT or SIGTERM, when everything is saved. All processes save and stop at the same step, whichever
    of them has met a signal; `save` and `finish` are called in all of them. `waited_s()` tells how many seconds the steps
    have waited for images; too many are told to the user.
    """
    begun = saved = time.monotonic()
    with stop_between_steps(lambda: progress.note("stopping after this step ...")) as stop, parallel.together():
        parallel.most([0])  # from here on a signal finds all processes ready for it
        if done:
            progress.note(f"continuing at step {done} of {total}")
        progress.start(name, total, done)
        for step in range(done, total):
            try:
                shown = take(step)
            except LostDataError as error:
                # The first process alone writes; where another one met it, the last checkpoint is what there is.
                kept = step > done and save(step) and parallel.first
                raise LostDataError(f"{error}\n{_after_loss(step, kept=kept)}") from error
            # The first one comes early, so that a run killed soon after its start has not run for nothing.
            interval = checkpoint_every_s if saved > begun else checkpoint_every_s * _FIRST
            due, signum = parallel.most([time.monotonic() - saved >= interval, stop.signal])
            kept = save(step + 1) if due or signum or step + 1 == total else False
            if kept:
                saved = time.monotonic()
            if signum and step + 1 < total:
                raise Interrupted(signum, saved=kept)
            progress.advance(**shown)
        _tell_waiting(waited_s(), time.monotonic() - begun, progress)
        finish()
        (signum,) = parallel.most([stop.signal])
        if signum:
            raise Interrupted(signum)


def _after_loss(step: int, *, kept: bool) -> str:
    if not step:
        return "Nothing had been learned yet: put the file right, and give the same command again"
    saved = f"Everything up to step {step} is saved" if kept else "What was saved before stands as it was"
    return f"{saved}: put the file back as it was, and the same command goes on from there; with other data it is another run"


def _tell_waiting(waited_s: float, whole_s: float, progress: Progress) -> None:
    if waited_s > _MUCH * whole_s and waited_s > _SECONDS_WORTH_A_WORD:
        progress.note(
            f"{waited_s / whole_s:.0%} of the time went to waiting for images: keep them on a faster disk or nearer to the "
            "size of the network's input, or give the process more cores"
        )


def trustworthy(watch: LossWatch, where: str, checkpoint: Path, *, last: bool) -> bool:
    """Say whether what was learned last may take the place of the last good `checkpoint`.

    Raises DivergedError if it may not and there are no steps left that could mend it.
    """
    if watch.suspicious and last:
        raise diverged(f"{where}: {watch.told()}", checkpoint)
    return not watch.suspicious


def seed_step(seed: int, step: int) -> None:
    """Let what modules draw by themselves (stochastic depth, dropout) depend on the seed and the step alone, as a run that is gone on with needs it."""
    torch.manual_seed(seed * 1_000_003 + step)  # below 2^63


class History:
    """A file of JSON lines, one per step, written when a checkpoint is - by the process that `writes`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        self._waiting: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Take in the record of one step; it must hold its number under `step`."""
        if self._writes:
            self._waiting.append(record)

    def write(self) -> None:
        """Append what has come in. Call it before the checkpoint: lines beyond a checkpoint are cut when a run goes on."""
        for record in self._waiting:
            append_line(self._path, record)
        self._waiting.clear()

    def cut(self, done: int) -> None:
        """Drop the records of step `done` and later, which will be taken again."""
        kept = [record for record in read_lines(self._path) if record["step"] < done]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))

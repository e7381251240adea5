"""One process at a time works on a run, or a sweep: two would write the same files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bmtas.errors import UsageError
from bmtas.extras import require
from bmtas.runs import Run


def held(run: Run) -> contextlib.AbstractContextManager[None]:
    """Hold `run` against other processes. Raises UsageError, when it is entered, if another process has it."""
    return alone(
        run.path / "lock",
        f"another process is at work on {run.path}; wait until it ends, or begin another run with `bmtas search --new`",
    )


@contextlib.contextmanager
def alone(place: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `place`; the system lets go of it when this process ends, however it ends.

    Raises UsageError with `refusal` if another process has it.
    """
    filelock = require("filelock", "train")
    lock = filelock.FileLock(place)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(refusal) from None
    try:
        yield
    finally:
        lock.release()

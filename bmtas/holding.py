"""One process at a time works on a run: two would write the same checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bmtas.errors import UsageError
from bmtas.extras import require
from bmtas.runs import Run


@contextlib.contextmanager
def held(run: Run) -> Iterator[None]:
    """Hold `run` against other processes; the system lets go of it when this one ends, however it ends.

    Raises UsageError if another process has it.
    """
    filelock = require("filelock", "train")
    lock = filelock.FileLock(run.path / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(
            f"another process is at work on {run.path}; wait until it ends, or begin another run with `bmtas search --new`"
        ) from None
    try:
        yield
    finally:
        lock.release()

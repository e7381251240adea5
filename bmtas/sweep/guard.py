"""What a job's command does before it begins: it ends when whoever started it is gone, and works in its folder alone. Needs no torch."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem
from bmtas.extras import require

_GRACE_S = 60.0
"""So long a command may take to save its checkpoint once it was asked to stop."""


def end_with_parent() -> None:
    """Have this process ask itself to stop when its standard input ends, which happens when the process that holds the pipe is gone."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a thread of this kind may hold when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # the command saves its checkpoint
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def take_folder(lock: Path) -> Any:
    """Return the lock of a job's folder, held until this process ends; an earlier command of the job is waited for.

    Raises EnvironmentProblem if that one does not end in time.
    """
    filelock = require("filelock", "train")
    held = filelock.FileLock(lock)
    try:
        held.acquire(timeout=2 * _GRACE_S)
    except filelock.Timeout:
        raise EnvironmentProblem(
            f"an earlier command of this job still holds {lock} and does not end; end that process, then start the same sweep again"
        ) from None
    return held

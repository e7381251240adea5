"""Which of torchrun's processes this one is. Needs no torch, so that the command line can ask before anything is loaded."""

from __future__ import annotations

import os

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")


def torchrun_rank() -> int | None:
    """Return this process's number among all that torchrun has started, from 0; None if torchrun has not started it."""
    return int(os.environ["RANK"]) if all(name in os.environ for name in _NEEDED) else None


def processes() -> int:
    """Return how many processes torchrun has started together with this one; 1 if it is alone."""
    return 1 if torchrun_rank() is None else int(os.environ["WORLD_SIZE"])


def speaks() -> bool:
    """Say whether this process should show progress and results: the first one, or the only one."""
    return torchrun_rank() in (None, 0)

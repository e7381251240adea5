"""Ctrl-C and SIGTERM end a run between two steps, after its checkpoint is written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from bmtas.errors import BmtasError
from bmtas.ranks import torchrun_rank


class Interrupted(BmtasError):
    """The run was asked to stop by signal `number`; `saved` says whether its last step is in the checkpoint."""

    def __init__(self, number: int, *, saved: bool = True) -> None:
        kept = "everything up to here is saved, the same command goes on from here"
        doubtful = "a loss was far above where it began, so the last steps were not saved; the same command goes on from before"
        super().__init__(f"stopped; {kept if saved else doubtful}")
        self.exit_code = 128 + number  # what a shell reports for a process that a signal has ended


class Stop:
    """Whether somebody has asked the run to stop, and by which signal."""

    def __init__(self, heard: Callable[[], None] | None = None) -> None:
        self.signal = 0
        self._heard, self._process = heard, os.getpid()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal != 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: the first asks, and `heard` is called; the second interrupts at once.

        Not under torchrun: there a job's end is told to the launcher and to its processes, which hear of it twice. It
        kills whoever has not stopped within 30 s.
        """
        if self.requested and torchrun_rank() is None:
            raise KeyboardInterrupt
        first, self.signal = not self.requested, signum
        # A process that was forked (to read images, say) has this handler too: it has nothing to tell.
        if first and self._heard is not None and os.getpid() == self._process:
            with contextlib.suppress(RuntimeError):  # the signal came in the midst of writing to the same stream
                self._heard()


@contextlib.contextmanager
def stop_between_steps(heard: Callable[[], None] | None = None) -> Iterator[Stop]:
    """Within this block SIGINT and SIGTERM only ask; the loop looks at the answer after each step.

    `heard` is called at once when the first of them comes, in its handler: a step can last long.
    """
    stop = Stop(heard)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signal handlers belong to the main thread
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {s: signal.signal(s, stop) for s in signals}
    try:
        yield stop
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)

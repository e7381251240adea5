"""Jobs of a sweep on this machine: so many at once, each in processes of its own. Needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from bmtas.sweep.job import Assignment, work
from bmtas.sweep.ledger import JobState


class LocalRunner:
    """Does `workers` jobs at a time; a thread of this process waits for each."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
        self._stop = threading.Event()
        self._waited_for: set[Future[JobState]] = set()

    def begin(self, assignments: Sequence[Assignment]) -> None:
        """Take on jobs."""
        self._waited_for |= {self._pool.submit(work, assignment, self._stop.is_set) for assignment in assignments}

    def ended(self, timeout_s: float) -> list[str]:
        """Return the names of jobs that have ended since the last call. Raises OSError or EnvironmentProblem where a state could not be written."""
        done, self._waited_for = wait(self._waited_for, timeout=timeout_s, return_when=FIRST_COMPLETED)
        return sorted(future.result().job for future in done)

    def stop(self) -> None:
        """Have all jobs stop."""
        self._stop.set()

    def close(self) -> None:
        """Stop and wait until all have ended."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

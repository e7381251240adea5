"""Who does the jobs of a sweep, here or elsewhere: one protocol. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bmtas.sweep.job import Assignment


class Runner(Protocol):
    """Does jobs, several at once; each writes how it stands into its own folder."""

    def begin(self, assignments: Sequence[Assignment]) -> None:
        """Take on jobs, which are begun in this order as there is room."""

    def ended(self, timeout_s: float) -> list[str]:
        """Return the names of jobs that have ended since the last call, whatever they came to; wait for one at most so long.

        Raises what stopped a job from telling how it stands.
        """

    def stop(self) -> None:
        """Have all jobs stop and save where they are; they end soon. None is begun any more."""

    def close(self) -> None:
        """Stop, wait until all have ended, and let go of everything."""

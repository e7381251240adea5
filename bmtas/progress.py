"""How long-running work tells where it stands; the command line shows it, a library user may pass her own."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a long-running function does."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Begin a phase of `total` steps, `done` of which were done in an earlier process."""

    def advance(self, **values: float) -> None:
        """Finish one step; `values` are worth showing."""

    def state(self, **texts: str) -> None:
        """Tell what holds until it is told anew: shown beside the steps."""

    def note(self, text: str) -> None:
        """Say something once."""


class Silent:
    """Tells nobody."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, **values: float) -> None:
        """Do nothing."""

    def state(self, **texts: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

"""How long-running work tells where it stands; the command line shows it, a library user may pass her own."""

from __future__ import annotations

import logging
import time
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


class Logged:
    """Tells the logger `bmtas` (level INFO): for notebooks and services; a line per phase, per note, and every `every_s` seconds."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._log, self._every_s = logging.getLogger("bmtas"), every_s
        self._name, self._total, self._done, self._last = "", 0, 0, 0.0

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Say which phase begins."""
        self._name, self._total, self._done, self._last = name, total, done, time.monotonic()
        self._log.info("%s: %d/%d", name, done, total)

    def advance(self, **values: float) -> None:
        """Say how far it is, now and then and at its end."""
        self._done += 1
        if self._done == self._total or time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            told = "  ".join(f"{key} {value:.3g}" for key, value in values.items())
            self._log.info("%s: %d/%d  %s", self._name, self._done, self._total, told)

    def state(self, **texts: str) -> None:
        """Say what has changed, for who listens at level DEBUG."""
        self._log.debug("%s", "; ".join(f"{key}: {value}" for key, value in texts.items()))

    def note(self, text: str) -> None:
        """Say it."""
        self._log.info("%s", text)

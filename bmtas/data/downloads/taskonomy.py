"""Taskonomy."""

from __future__ import annotations

from pathlib import Path

from bmtas.data.downloads.base import Layout


def detect(root: Path) -> Layout | None:
    """Return the layout of the data set in `root`, None if it is not there."""
    return None

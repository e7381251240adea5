"""The branched search has no settings beside those of every search."""

from __future__ import annotations

from typing import Any

from bmtas.settings import Settings


class Own(Settings):
    """No settings."""


OWN: dict[str, dict[str, Any]] = {}
SEARCH: dict[str, dict[str, Any]] = {}
TRAIN: dict[str, dict[str, Any]] = {}

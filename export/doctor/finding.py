"""One thing that was looked at, and what was found."""

from __future__ import annotations

from typing import Literal

from export.machine.model import Told

Area = Literal["python", "runtimes", "machine", "space"]
Level = Literal["ok", "note", "warning", "fault"]
"""Ok; worth knowing; slower or less than this machine could; or something that does not work until it is mended."""


class Finding(Told):
    """What was found where one thing was looked at; `fix` is the command that mends it, where one does."""

    area: Area
    name: str
    level: Level
    found: str
    fix: str | None = None

"""The lines of a measured kit: a header, then one visit of one item each. Needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmtas.errors import UsageError
from bmtas.files import first_problem, read_lines
from export.machine.identity import Identity

SCHEMA_VERSION: Final = 1
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Runs = Annotated[list[_Positive], Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Header(_Frozen):
    """What was measured (SHA-256 of the kit's manifest), how, and on what; `rail` is that of the energy, None where none was measured."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kit: str
    setting: str
    runtime: str
    provider: str
    device: dict[str, Any]
    rail: str | None

    def differences(self, other: Header) -> list[str]:
        """Return in what, but for the device, the two differ."""
        names = {
            "kit": "another kit",
            "setting": "setting",
            "runtime": "runtime",
            "provider": "provider",
            "rail": "power rail",
        }
        return [
            said if name == "kit" else f"{said} {getattr(other, name)} there, {getattr(self, name)} now"
            for name, said in names.items()
            if getattr(self, name) != getattr(other, name)
        ]


class Visit(_Frozen):
    """One visit of an item in pass `number`: runs of the anchor and of the item in turn, in ms; energy of one run of each in mJ."""

    number: Annotated[int, Field(ge=0)]
    item: str
    anchor_ms: _Runs
    latency_ms: _Runs
    energy_mj: _Positive | None
    anchor_energy_mj: _Positive | None
    date: str

    @property
    def ratio(self) -> float:
        """Median latency of the item over that of the anchor."""
        return statistics.median(self.latency_ms) / statistics.median(self.anchor_ms)


@dataclass(frozen=True)
class Visits:
    """All that was measured of a kit in one setting."""

    header: Header
    visits: tuple[Visit, ...]

    @property
    def machine(self) -> Identity:
        """The machine that was measured."""
        return Identity.model_validate(self.header.device)

    def of(self, item: str) -> list[Visit]:
        """Return the visits of an item."""
        return [visit for visit in self.visits if visit.item == item]


def visits_of(path: Path) -> Visits:
    """Read a file of measurements; a line cut short by a kill is left out. Raises UsageError if it is none, or of a newer version."""
    lines = read_lines(path)
    if not lines:
        raise UsageError(f"{path} holds no measurement; `bmtas profile run` writes such files")
    if not all(isinstance(line, dict) for line in lines):
        raise UsageError(f"{path} is no file of measurements: a line is no JSON object; remove it and measure anew")
    found = lines[0].get("schema_version")
    if found != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: found schema_version {found!r}, this version of bmtas understands {SCHEMA_VERSION}; measure anew"
        )
    try:
        visits = Visits(Header.model_validate(lines[0]), tuple(Visit.model_validate(line) for line in lines[1:]))
        Identity.model_validate(visits.header.device)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}; the file was changed: remove it and measure anew") from None
    return visits


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the median of `values` relative to it, by the spread about it; infinite for fewer than three.

    1.2533 s / sqrt(n) for normal noise, s by the median absolute deviation (times 1.4826), so that single bad visits do not count.
    """
    if len(values) < 3:
        return math.inf
    median = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in values)
    return 1.2533 * deviation / math.sqrt(len(values)) / median

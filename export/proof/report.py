"""A parity report in words. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bmtas.errors import UsageError


class _Entry(BaseModel):
    unit: str
    value: float | None
    probability_difference: float | None = None


class _Report(BaseModel):
    images: int
    tasks: dict[str, _Entry]


def number_text(number: float | None, digits: int = 2) -> str:
    """Return a number of a report with that many digits; one that could not be computed is said to be none."""
    return "not a finite number" if number is None else f"{number:.{digits}g}"


def worst_text(report: Mapping[str, Any], separator: str = ", ") -> str:
    """Return each task's difference from PyTorch in its unit, one after the other. Raises UsageError if it is no parity report."""
    return separator.join(f"{name}: {_told(entry)}" for name, entry in _read(report).tasks.items())


def proof_text(report: Mapping[str, Any] | None) -> str:
    """Return `worst_text` in lines and on how many images that was; `not told` where there is no report. Raises what it raises."""
    if report is None:
        return "not told"
    found = _read(report)
    return "\n".join([*([worst_text(report, "\n")] if found.tasks else []), f"on {found.images} images"])


def _told(entry: _Entry) -> str:
    said = f"{number_text(entry.value)} {entry.unit}"
    if entry.probability_difference is None:
        return said
    return f"{said}, probabilities {number_text(entry.probability_difference)} apart"


def _read(report: Mapping[str, Any]) -> _Report:
    try:
        return _Report.model_validate(dict(report))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"a proof is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}; export the network again"
        ) from None

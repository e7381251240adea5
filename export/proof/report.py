"""A parity report in words. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def proof_text(report: Mapping[str, Any] | None) -> str:
    """Return each task's difference from PyTorch in its unit, a line per task; `not told` where there is no report."""
    if report is None:
        return "not told"
    lines = [f"{name}: {entry['value']:.2g} {entry['unit']}" for name, entry in report["tasks"].items()]
    return "\n".join([*lines, f"on {report['images']} images"])

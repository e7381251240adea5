"""Numbers and names as they are written in a report: with units and the digits that they support."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bmtas.tables import column_label
from bmtas.tasks import Task
from costs.units import Resource, format_quantity

ARROWS = {True: "\u2191", False: "\u2193"}
ABSENT = "\u2013"
"""What stands where a number does not apply or is told elsewhere to be missing."""


def quantity(value: float | None, resource: Resource) -> str:
    """Return a cost with its unit, three digits; an absent one as a dash."""
    return ABSENT if value is None else format_quantity(value, resource)


def metric_text(value: float | None) -> str:
    """Return a metric: three decimals below 10, two from there; `no label` where nothing could be measured."""
    if value is None:
        return "no label"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def metric_title(task: Task) -> str:
    """Return the head of a metric's column: `depth rmse_m` and an arrow to where better is."""
    return f"{task.name} {task.metric}\u00a0{ARROWS[task.higher_is_better]}"


def delta_text(value: float | None) -> str:
    """Return Delta_m in percent with its sign."""
    return ABSENT if value is None else f"{value:+.2f}"


def milliseconds(value: float | None) -> str:
    """Return milliseconds with three digits, without the unit."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def size_text(size: Sequence[int]) -> str:
    """Return (height, width) as `512x512`."""
    return "x".join(map(str, size))


def span_text(first: int, last: int) -> str:
    """Return the layers from `first` to `last` in words."""
    return f"layer {first}" if first == last else f"layers {first}\u2013{last}"


def wrapped(command: str, most: int = 84) -> str:
    """Return a command line broken after whole words, so that it can be copied as it stands."""
    lines, line = [], ""
    for word in re.findall(r"'[^']*'|\S+", command):
        if line and len(line) + len(word) + 1 > most:
            lines.append(line)
            line = f"    {word}"
        else:
            line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])


def listed(names: Sequence[str], everyone: Sequence[str]) -> str:
    """Return tasks joined by plus signs; `all` for more than two that are all of them."""
    return "all tasks" if len(names) == len(everyone) > 2 else " + ".join(names)


def costs_text(costs: Mapping[str, float]) -> str:
    """Return all costs in one line."""
    known = [resource for resource in Resource if resource.value in costs]
    return ", ".join(format_quantity(costs[r.value], r) + _whose(r) for r in known)


def _whose(resource: Resource) -> str:
    return " by the table" if column_label(resource) != resource.label else ""


def short(value: Any, most: int = 120) -> str:
    """Return a value as text, cut where it is longer than `most` characters."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"

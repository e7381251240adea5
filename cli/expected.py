"""The view of an expectation, for `bmtas show --expected` and `bmtas profile --tasks-count`."""

from __future__ import annotations

import math
from typing import Any

_SHOWN = 3
"""Groupings of a layer that are listed; JSON and pictures have more."""


def expectation_view(expectation: dict[str, Any], title: str) -> Any:
    """Return a table of what `bmtas.expectation.expect` gives; what is left out there is named under it."""
    from rich.table import Table

    from bmtas.tables import column_label
    from costs.units import Resource, format_quantity

    resources = [Resource(name) for name in expectation["expected"]]
    grouped = expectation["layers"][0]["groupings"] is not None

    def quantities(values: dict[str, float | None]) -> list[str]:
        return ["-" if values[r.value] is None else format_quantity(values[r.value] or 0.0, r) for r in resources]

    view = Table(title=f"{title}: expected cost per layer{', and the most probable groupings' if grouped else ''}")
    view.add_column("layer", no_wrap=True)
    for resource in resources:
        view.add_column(column_label(resource).replace(" (", "\n("), justify="right")
    if grouped:
        view.add_column("groupings", overflow="fold")
    for layer in expectation["layers"]:
        likely = [_likely(layer["groupings"])] if grouped else []
        view.add_row(layer["name"], *quantities(layer["expected"]), *likely)
    view.add_section()
    view.add_row("[bold]with stem\nand heads[/]", *quantities(expectation["expected"]), *([""] if grouped else []))
    if expectation["left_out"]:
        labels = {resource.value: column_label(resource) for resource in resources}
        view.caption = "\n".join(f"{labels.get(n, n)}: {reason}" for n, reason in expectation["left_out"].items())
    return view


def _likely(groupings: list[dict[str, Any]]) -> str:
    """Return the most probable groupings of a layer, one a line, and how many more are as likely as the last of them."""
    from bmtas.expectation import MOST_GROUPINGS, RARE

    if not groupings:
        return f"none as likely as {RARE:.1%}"
    lines = [f"{_percent(entry['probability'])} {entry['grouping']}" for entry in groupings[:_SHOWN]]
    last = groupings[:_SHOWN][-1]["probability"]
    equal = sum(math.isclose(entry["probability"], last, rel_tol=1e-9) for entry in groupings[_SHOWN:])
    if equal:
        cut = len(groupings) == MOST_GROUPINGS == _SHOWN + equal
        lines.append(f"and {'at least ' if cut else ''}{equal} more as likely")
    return "\n".join(lines)


def _percent(probability: float) -> str:
    """Return a probability in percent; one below 1 is never printed as certain."""
    text = f"{probability:.1%}"
    return ">99.9%" if text == "100.0%" and probability < 1 else text

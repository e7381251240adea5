"""The view of an expectation, for `bmtas show --expected` and `bmtas profile --tasks-count`."""

from __future__ import annotations

from typing import Any

_SHOWN = 3
"""Groupings that a row has room for; JSON and pictures have more."""


def expectation_view(expectation: dict[str, Any], title: str) -> Any:
    """Return a table of what `bmtas.expectation.expect` gives; what is left out there is named under it."""
    from rich.table import Table

    from costs.units import Resource, format_quantity

    resources = [Resource(name) for name in expectation["expected"]]
    grouped = expectation["layers"][0]["groupings"] is not None

    def quantities(values: dict[str, float | None]) -> list[str]:
        return ["-" if values[r.value] is None else format_quantity(values[r.value] or 0.0, r) for r in resources]

    view = Table(title=f"{title}: expected cost per layer{', and the most probable groupings' if grouped else ''}")
    view.add_column("layer")
    for resource in resources:
        view.add_column(resource.label, justify="right")
    if grouped:
        view.add_column("groupings")
    for layer in expectation["layers"]:
        likely = (layer["groupings"] or [])[:_SHOWN]
        text = "   ".join(f"{entry['probability']:.1%} {entry['grouping']}" for entry in likely)
        view.add_row(layer["name"], *quantities(layer["expected"]), *([text] if grouped else []))
    view.add_section()
    view.add_row("[bold]with stem and heads[/]", *quantities(expectation["expected"]), *([""] if grouped else []))
    if expectation["left_out"]:
        view.caption = "\n".join(f"{name}: {reason}" for name, reason in expectation["left_out"].items())
    return view

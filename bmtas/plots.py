"""Pictures of a search: how the expected cost came to the budget, and what the probabilities promise. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bmtas.extras import require
from bmtas.files import atomic_path, read_lines
from bmtas.runs import Run
from bmtas.tables import column_label
from costs.units import Budget, Resource, parse_budget, unit_scale

_DOTS_PER_INCH = 120
_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
"""Of so many groupings, each has a colour; the others are grey, which C7 is too."""
_VISIBLE = 0.005
"""A smaller part of a bar is thinner than a line, and no entry of a legend."""


def draw_search(run: Run, expectation: dict[str, Any]) -> list[Path]:
    """Write the pictures of a search that has ended into its folder and return their paths.

    `budget.png` shows expected cost and multiplier over the steps; `expected.png` shows `expectation`, which is what
    `expect_run` returns for this run.

    Raises EnvironmentProblem where matplotlib is not installed.
    """
    budgets = [parse_budget(text) for text in run.config().budgets]
    drawn = [run.search_folder / "budget.png", run.search_folder / "expected.png"]
    draw_budgets(read_lines(run.search_folder / "history.jsonl"), budgets, drawn[0])
    draw_expected(expectation, run.name, drawn[1])
    return drawn


def draw_budgets(history: list[dict[str, Any]], budgets: list[Budget], path: Path) -> None:
    """Draw the expected cost over the steps, against the budget where there is one, and its multiplier.

    `history` is what a search writes step by step. There is a column per budget; where there are none, one per resource
    whose expected cost was recorded. Steps without it are passed over, and where all are, the picture says so.
    """
    limits: list[tuple[Resource, Budget | None]] = [(budget.resource, budget) for budget in budgets]
    recorded = {key.removeprefix("expected.") for record in history for key in record if key.startswith("expected.")}
    limits = limits or [(resource, None) for resource in Resource if resource.value in recorded]
    rows = 2 if any(key.startswith("multiplier.") for record in history for key in record) else 1
    figure = _figure(5.5 * max(len(limits), 1), 1 + 2.25 * rows)
    axes = figure.subplots(rows, max(len(limits), 1), sharex=True, squeeze=False)
    if not limits:
        _draw_one_budget(axes[:, 0], history, Resource.MADDS, None)
    for pair, (resource, budget) in zip(axes.T, limits, strict=False):
        _draw_one_budget(pair, history, resource, budget)
    _save(figure, path)


def _draw_one_budget(axes: Any, history: list[dict[str, Any]], resource: Resource, budget: Budget | None) -> None:
    above, below = axes[0], axes[-1]
    label, expected, multiplier = column_label(resource), f"expected.{resource.value}", f"multiplier.{resource.value}"
    records = [record for record in history if expected in record]
    if not records:
        for axis in axes:
            axis.set_axis_off()
        above.text(0.5, 0.5, f"no architecture step\nwith an expected cost in {label}", ha="center", va="center")
        return
    steps, values = [record["step"] for record in records], [record[expected] for record in records]
    scale, unit = unit_scale(max(values) if budget is None else budget.value, resource)
    name = "greatest expected layer" if resource.is_peak else "expected"
    above.plot(steps, [value / scale for value in values], label=name)
    if budget is not None:
        above.axhline(budget.value / scale, color="black", linestyle="--", linewidth=1, label=f"budget {budget.text}")
    above.set_ylabel(f"{label} ({unit})")
    above.legend()
    driven = [record for record in records if multiplier in record]
    if driven:
        below.plot([r["step"] for r in driven], [r[multiplier] for r in driven], color="tab:red")
        below.set_ylabel(f"multiplier of {label}")
    elif len(axes) == 1:
        above.set_title("no budget has driven this search", fontsize="medium")
    below.set_xlabel("step of the search")


def draw_expected(expectation: dict[str, Any], title: str, path: Path) -> None:
    """Draw what `expect` returns: expected cost per layer, and the probability of each grouping per layer.

    What is None there is left out, and the picture says why.
    """
    layers = expectation["layers"]
    resources = [Resource(name) for name, value in layers[0]["expected"].items() if value is not None]
    grouped = layers[0]["groupings"] is not None
    heights = [1] * len(resources) + [2] * grouped or [1]
    figure = _figure(max(7.0, 0.45 * len(layers) + 4), 2.2 * len(resources) + (3.5 if grouped else 1.3))
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    places = list(range(len(layers)))
    for axis, resource in zip(axes, resources, strict=False):
        values = [layer["expected"][resource.value] for layer in layers]
        scale, unit = unit_scale(max(values), resource)
        axis.bar(places, [value / scale for value in values])
        axis.set_ylabel(f"{column_label(resource)}\n({unit})")
    if grouped:
        _draw_groupings(axes[-1], layers)
    absent = [name for name in ("groupings", *expectation["expected"]) if _is_absent(name, layers[0])]
    labels = {resource.value: column_label(resource) for resource in Resource}
    lines = [f"no {labels.get(name, name)}: {expectation['left_out'][name]}" for name in absent]
    what = "expected cost and groupings" if grouped else "expected cost"
    axes[0].set_title("\n".join([f"{title}: {what} per layer", *lines]))
    axes[-1].set_xticks(places, [layer["name"] for layer in layers], rotation=90)
    _save(figure, path)


def _is_absent(name: str, layer: dict[str, Any]) -> bool:
    return (layer["groupings"] if name == "groupings" else layer["expected"][name]) is None


def _draw_groupings(axis: Any, layers: list[dict[str, Any]]) -> None:
    """Draw the probabilities of the groupings as stacked bars; what has no colour of its own is grey."""
    totals: dict[str, float] = {}
    for layer in layers:
        for entry in layer["groupings"]:
            totals[entry["grouping"]] = totals.get(entry["grouping"], 0.0) + entry["probability"]
    shown = sorted(totals, key=lambda name: -totals[name])[: len(_COLOURS)]
    places, bottom = list(range(len(layers))), [0.0] * len(layers)
    for colour, name in zip(_COLOURS, shown, strict=False):
        heights = [sum(e["probability"] for e in layer["groupings"] if e["grouping"] == name) for layer in layers]
        axis.bar(places, heights, bottom=bottom, label=name, color=colour)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    rest = [max(1 - low, 0.0) for low in bottom]
    if max(rest) > _VISIBLE:
        axis.bar(places, rest, bottom=bottom, color="lightgrey", label="others")
    axis.set_ylim(0, 1)
    axis.set_ylabel("probability of the grouping")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")


def _figure(width: float, height: float) -> Any:
    # Not pyplot: a figure of its own needs no display and leaves nothing behind.
    return require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH)

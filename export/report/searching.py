"""How the search went: the expected cost against the budget, and what the probabilities promised in the end."""

from __future__ import annotations

import math
from typing import Any

from bmtas.expectation import RARE
from bmtas.tables import column_label
from costs.units import Budget, Resource, format_quantity, unit_scale
from export.report.blocks import Block, Cell, Details, Drawing, Missing, Remark, Table, cells
from export.report.charts import line_chart
from export.report.gather import Material
from export.report.repeat import next_step, search_command
from export.report.words import listed

_LISTED = 3
"""So many groupings of a layer stand in the table."""


def search_blocks(told: Material, identifier: str) -> list[Block]:
    """Return the chart of the expected cost, how sure the search was, and the expected groupings."""
    if not told.config.method.searches:
        return [
            Remark(f"The method {told.config.method.value} searches nothing: its network follows from a rule.", "muted")
        ]
    blocks: list[Block] = []
    limits: list[tuple[Resource, Budget | None]] = [(budget.resource, budget) for budget in told.budgets]
    for resource, budget in limits or [(Resource.MADDS, None)]:
        blocks += _chart(told, resource, budget, f"{identifier}-{resource.value}")
    blocks += [Remark(text) for text in _end(told)]
    step = next_step(told)
    if step is not None:
        blocks.append(step)
    if told.expectation is not None:
        blocks.append(_groupings(told, told.expectation))
    elif told.expectation_remark is not None:
        command = f"{search_command(told.config)[0]} --new"
        blocks.append(Missing(f"No expected groupings: {told.expectation_remark}.", command))
    return blocks


def _chart(told: Material, resource: Resource, budget: Budget | None, identifier: str) -> list[Block]:
    key = f"expected.{resource.value}"
    points = [
        (float(record["step"]), float(record[key]))
        for record in told.history
        if isinstance(record.get(key), (int, float)) and math.isfinite(record[key])
    ]
    label = column_label(resource)
    if not points:
        return [
            Remark(
                f"search/history.jsonl holds no expected {label}: no step has updated the architecture yet.", "muted"
            )
        ]
    scale, unit = unit_scale(max([value for _, value in points] + ([budget.value] if budget else [])), resource)
    levels = [] if budget is None else [(f"budget {budget.text}", budget.value / scale)]
    if not resource.is_peak:
        levels += [
            ("all shared", told.table.shared_total(resource) / scale),
            ("separate networks", told.table.separate_total(resource) / scale),
        ]
    what = "Greatest expected layer" if resource.is_peak else "Expected cost"
    title = f"{what} over the search, {label}"
    chart = line_chart(identifier, title, [(x, y / scale) for x, y in points], levels, unit, "step of the search")
    steered = [r for r in told.history if isinstance(r.get(f"multiplier.{resource.value}"), (int, float))]
    told_ = f"{what} of the networks that the probabilities make, after each update of the architecture."
    if steered:
        told_ += (
            f" The multiplier that holds it to the budget ended at {steered[-1][f'multiplier.{resource.value}']:.3g}."
        )
    elif budget is not None:
        told_ += " The budget did not steer the search; the network handed over keeps it."
    return [Drawing(chart, told_)]


def _end(told: Material) -> list[str]:
    """Return in sentences where the search ended."""
    entropies = [r["entropy"] for r in told.history if isinstance(r.get("entropy"), (int, float))]
    found = []
    if entropies:
        found.append(
            f"Entropy of the groupings, mean over layers: {entropies[0]:.2f} nats at first, {entropies[-1]:.2f} at the end (0 is sure)."
        )
    stored = told.stored or {}
    if stored.get("exact") is False:
        gap = stored.get("gap")
        bound = "" if gap is None else f"; no tree within the budget is more than e^{gap:.3g} times as probable"
        found.append(f"With so many tasks the tree is the best one that a bounded search found{bound}.")
    return found


def _groupings(told: Material, expectation: dict[str, Any]) -> Block:
    """Return the most probable groupings of every layer, and its expected cost in what the budget is of."""
    resources = [budget.resource for budget in told.budgets] or [Resource.MADDS]
    first = expectation["layers"][0]
    known = [r for r in resources if first["expected"].get(r.value) is not None]
    grouped = first["groupings"] is not None
    rows = []
    for layer in expectation["layers"]:
        costs = [format_quantity(layer["expected"][r.value], r) for r in known]
        if not grouped:
            rows.append(cells(layer["name"], *costs))
            continue
        likely = layer["groupings"][:_LISTED]
        top = (
            Cell(_likely(told, likely[0]), share=likely[0]["probability"]) if likely else Cell(f"none above {RARE:.1%}")
        )
        rows.append(cells(layer["name"], top, "; ".join(_likely(told, entry) for entry in likely[1:]), *costs))
    head = (
        "layer",
        *(("most probable grouping", "next") if grouped else ()),
        *(f"expected {column_label(r)}" for r in known),
    )
    left = frozenset((0, 1, 2)) if grouped else frozenset((0,))
    table = Table(
        "What the probabilities promised, layer by layer, before the network was taken from them",
        head,
        tuple(rows),
        left,
    )
    concerned = {"groupings", *(r.value for r in resources)}
    remarks = [Remark(f"{n}: {why}.", "muted") for n, why in expectation["left_out"].items() if n in concerned]
    return Details("Expected groupings and costs of every layer", (table, *remarks))


def _likely(told: Material, entry: dict[str, Any]) -> str:
    text = f"{entry['probability']:.1%}"
    sure = ">99.9%" if text == "100.0%" and entry["probability"] < 1 else text
    blocks = [listed(block.split("+"), told.names) for block in entry["grouping"].split("|")]
    return f"{' | '.join(blocks)} {sure}"

"""Closes the loop between a measured cost table and the device: what is found is measured before it is handed over.

A table predicts, and the promise is about the network itself. So the network found is measured; where it takes more than a
budget allows, the table is corrected by that and the architecture derived again, without another search, until one fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bmtas.architecture import Architecture, tree_of
from bmtas.errors import BudgetError
from bmtas.methods.finder import Found
from bmtas.progress import Progress
from bmtas.readings import Meter, Reading
from bmtas.tables import architecture_costs
from costs.correction import corrected
from costs.errors import BudgetBelowReach
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity

_MOST_TRIALS: Final = 12
KEPT: Final = ". What was searched is kept: `bmtas decode --budget` derives a tree for another budget from it"
"""Advice where a search has left probabilities."""


@dataclass(frozen=True)
class Settled:
    """What is handed over and what it was measured to take, the table as corrected on the way, and all trials as plain JSON values."""

    found: Found
    table: CostTable
    measured: Mapping[Resource, Reading]
    trials: list[dict[str, Any]]


def settle(
    derive: Callable[[CostTable], Found],
    table: CostTable,
    budgets: Sequence[Budget],
    meter: Meter,
    progress: Progress,
    keep: Callable[[list[dict[str, Any]]], None] = lambda trials: None,
    advice: str = "",
) -> Settled:
    """Return an architecture whose network was measured to be within `budgets`.

    `derive` gives the architecture within the budgets by a table; `keep` is given all trials so far after each of them. Raises
    BudgetError, which ends in `advice`, if no architecture is within the budgets as measured.
    """
    trials: list[dict[str, Any]] = []
    while len(trials) < _MOST_TRIALS:
        try:
            found = derive(table)
        except BudgetBelowReach as error:
            raise _out_of_reach(str(error), trials, advice) from None
        counts = list(tree_of(found.architecture).group_counts)
        if trials and trials[-1]["group_counts"] == counts:  # a method that has one architecture, whatever it costs
            raise _out_of_reach("no other architecture is to be had by this method", trials, advice)
        readings = meter(found.architecture)
        predicted = architecture_costs(table, found.architecture)
        trials.append(_told(found.architecture, predicted, readings, progress))
        keep(trials)
        over = [b for b in budgets if b.resource in readings and readings[b.resource].upper > b.value]
        if not over:
            return Settled(found, table, readings, trials)
        for budget in over:
            progress.note(
                f"up to {_text(readings[budget.resource].upper, budget)} (upper end of the interval), over {budget.text}: the table is corrected, and the "
                "architecture derived again"
            )
            predicted_now = architecture_costs(table, found.architecture)[budget.resource]
            reading = readings[budget.resource]
            table = corrected(table, budget.resource, counts, predicted_now, reading.median, reading.upper)
    raise _out_of_reach(
        f"{len(trials)} networks within the budget by the table were measured to be over it", trials, advice
    )


def _told(
    architecture: Architecture,
    predicted: Mapping[Resource, float],
    readings: Mapping[Resource, Reading],
    progress: Progress,
) -> dict[str, Any]:
    """Say what was predicted and measured, and return it as plain JSON values."""
    record: dict[str, Any] = {"group_counts": list(tree_of(architecture).group_counts)}
    for resource, reading in readings.items():
        said = [format_quantity(value, resource, digits=4) for value in (predicted[resource], reading.median)]
        off = reading.median / predicted[resource] - 1
        progress.note(f"{resource.label.lower()}: predicted {said[0]}, measured {said[1]} ({off:+.1%})")
        record[resource.value] = {
            "predicted": predicted[resource],
            "measured": reading.median,
            "measured_at_most": reading.upper,
            **reading.about,
        }
    return record


def _out_of_reach(reason: str, trials: Sequence[Mapping[str, Any]], advice: str) -> BudgetError:
    told = [
        f"{format_quantity(trial[key]['measured'], Resource(key), digits=4)} with {sum(trial['group_counts'])} groups"
        for trial in trials
        for key in trial
        if key != "group_counts"
    ]
    measured = f" Measured: {', '.join(told)}." if told else ""
    if any(trial[key].get("stable") is False for trial in trials for key in trial if key != "group_counts"):
        measured += " The machine was not at rest meanwhile; try again when it is."
    return BudgetError(
        f"{reason}.{measured} Raise the budget, or measure the table again if the device has changed{advice}"
    )


def _text(value: float, budget: Budget) -> str:
    return format_quantity(value, budget.resource, digits=4)

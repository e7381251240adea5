"""How budgets in measured resources are kept: by measuring here, or with a margin for what the table may be wrong by. On the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bmtas.errors import BudgetError, UsageError
from bmtas.progress import Progress
from bmtas.tasks import Task
from costs.correction import with_margin
from costs.errors import BudgetBelowReach
from costs.measurement import MOST_ERROR, Measurement
from costs.reach import check_budgets
from costs.table import CostTable
from costs.units import Budget, Resource
from export.latency.machine import differences
from export.latency.meter import DeviceMeter
from export.machine.identity import identify

METERED: Final = (Resource.LATENCY_MS, Resource.ENERGY_MJ)
"""Resources that a table has from a device."""


@dataclass(frozen=True)
class Metered:
    """The table to keep budgets by; `meter` is None where nothing is to be measured, or the table is of another machine."""

    table: CostTable
    meter: DeviceMeter | None


def metered(
    table: CostTable,
    budgets: Sequence[Budget],
    tasks: Sequence[Task],
    progress: Progress,
    *,
    measure: bool = True,
    root: Path = Path("/"),
) -> Metered:
    """Return how the budgets in ms and mJ are kept; without `measure` nothing is run, only checked.

    Raises UsageError where the table is too far off to keep a budget by, BudgetError where no network is within one.
    """
    asked = [budget for budget in budgets if budget.resource in METERED]
    for budget in asked:
        if budget.resource not in table.measured:
            progress.note(
                f"budget {budget.text}: the table does not say how it was measured, so it is taken at its word; "
                "`bmtas profile --latency` measures one that is held against whole networks"
            )
    known = {b.resource: table.measured[b.resource] for b in asked if b.resource in table.measured}
    if not known:
        return Metered(table, None)
    for budget in asked:
        if budget.resource in known:
            require_trustworthy(known[budget.resource], budget)
    elsewhere = differences(next(iter(known.values())), identify(root))
    if elsewhere:
        return Metered(_higher(table, known, budgets, elsewhere, progress), None)
    meter = DeviceMeter(tasks, table, known, progress, root)
    if measure:
        meter.require_reach(budgets)
    return Metered(table, meter)


def require_trustworthy(measurement: Measurement, budget: Budget) -> None:
    """Raise UsageError where a table is too far from whole networks to keep `budget` by it."""
    held_out = measurement.held_out
    if held_out.median_error > MOST_ERROR:
        raise UsageError(
            f"budget {budget.text}: the table is {held_out.median_error:.1%} off on whole networks that it was not fitted to (median of "
            f"{held_out.networks}), and a budget is kept by tables that are within {MOST_ERROR:.0%}; measure again with nothing else "
            "running on the device, or with more passes (`bmtas profile run KIT --passes`)"
        )


def _higher(
    table: CostTable,
    known: Mapping[Resource, Measurement],
    budgets: Sequence[Budget],
    elsewhere: Sequence[str],
    progress: Progress,
) -> CostTable:
    """Return the table with costs as high as whole networks were found above it, for nothing can be measured here."""
    for resource, about in known.items():
        next_step = (
            "the network that was measured there is in the table now, others may differ from it by so much"
            if about.corrections
            else "measure the exported network there with `bmtas bench --json`, and give that to `bmtas decode --measured`"
        )
        table = with_margin(table, resource)
        progress.note(
            f"{resource.label.lower()}: the table is of another machine ({'; '.join(elsewhere)}), so the network found cannot be measured "
            f"here. Costs are taken {table.measured[resource].margin - 1:.1%} higher, which is how far whole networks were above the table; "
            + next_step
        )
    try:
        check_budgets(table, budgets)
    except BudgetBelowReach as error:
        raise BudgetError(f"with that margin, {error}") from None
    return table

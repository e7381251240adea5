"""What a table can reach: the range of budgets that make a difference, and the check of budgets against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR

from costs.errors import BudgetBelowReach
from costs.forms import extreme_architectures
from costs.table import CostTable
from costs.units import Budget, Resource, as_budgets, as_resource, format_quantity


def budget_range(table: CostTable, resource: Resource) -> tuple[float, float]:
    """Return the costs between which budgets make a difference, in base units.

    Below the first no architecture fits, above the second every one does. They are those of the network that shares
    all layers and of the one that shares only the stem, unless the table says that some other is cheaper or dearer.
    Raises CostError if the table does not know the resource.
    """
    resource = as_resource(resource)
    cheapest, dearest = extreme_architectures(table, resource)
    return table.architecture_cost(cheapest, resource), table.architecture_cost(dearest, resource)


def check_budgets(table: CostTable, budgets: Sequence[Budget | str]) -> tuple[Budget, ...]:
    """Return the budgets, those given as text read (`parse_budget`), if each of them can be met.

    Raises BudgetBelowReach, naming the range, if one is below the cheapest architecture; CostError if the table lacks a
    resource or `budgets` is no sequence of budgets. Where no cost falls with more groups, sharing everything is cheapest in every resource at once, so budgets that can
    be met one by one can be met together.
    """
    checked = as_budgets(budgets)
    below = [budget for budget in checked if not budget.value >= budget_range(table, budget.resource)[0]]
    if below:
        met = [budget.text for budget in checked if budget not in below]
        raise BudgetBelowReach(
            "; ".join(_explain(table, budget) for budget in below)
            + (f" (the other budgets, {', '.join(met)}, can be met)" if met else "")
            + ". Raise the budget, or take fewer tasks, smaller images or a smaller backbone"
        )
    return checked


def limits_of(table: CostTable, budgets: Sequence[Budget | str]) -> dict[Resource, float]:
    """Return the limit of each resource in base units, in the order of the budgets; several for one mean the least.

    Raises as `check_budgets` does.
    """
    limits: dict[Resource, float] = {}
    for budget in check_budgets(table, budgets):
        limits[budget.resource] = min(budget.value, limits.get(budget.resource, math.inf))
    return limits


def _explain(table: CostTable, budget: Budget) -> str:
    low, high = budget_range(table, budget.resource)
    # Rounded inwards, so that the ends as printed are within reach themselves.
    least = format_quantity(low, budget.resource, digits=4, rounding=ROUND_CEILING)
    most = format_quantity(high, budget.resource, digits=4, rounding=ROUND_FLOOR)
    shared = " (all layers shared)" if low == table.shared_total(budget.resource) else ""
    split = " (only the stem shared)" if high == table.split_total(budget.resource) else ""
    return (
        f"budget {budget.text} ({budget.resource}): no network of {table.backbone} for {len(table.tasks)} tasks is "
        f"within it; reachable is {least}{shared} to {most}{split}"
    )

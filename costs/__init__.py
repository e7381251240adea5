"""Cost tables, exact expected costs, and decoding under a budget.

The public names are loaded from their files on first use, because one of the files imports torch and most
users of this package must not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costs.controller import Multiplier
    from costs.decode import (
        Decoded,
        architecture_from_draws,
        argmax_architecture,
        best_architecture,
        pareto_front,
    )
    from costs.errors import BudgetBelowReach, CostError
    from costs.expected import expected_cost, expected_groups, expected_layer_costs, sharing_probabilities
    from costs.forms import expected_from_groupings, partition_costs
    from costs.groupings import grouping_probabilities
    from costs.partitions import Grouping
    from costs.parts import FixedCost, LayerCost
    from costs.reach import budget_range, check_budgets
    from costs.table import CostTable
    from costs.units import Budget, Resource, format_quantity, parse_budget

__all__ = [
    "Resource",
    "Budget",
    "parse_budget",
    "format_quantity",
    "CostTable",
    "LayerCost",
    "FixedCost",
    "sharing_probabilities",
    "expected_groups",
    "expected_cost",
    "expected_layer_costs",
    "expected_from_groupings",
    "grouping_probabilities",
    "partition_costs",
    "Multiplier",
    "best_architecture",
    "Decoded",
    "Grouping",
    "argmax_architecture",
    "architecture_from_draws",
    "budget_range",
    "check_budgets",
    "pareto_front",
    "CostError",
    "BudgetBelowReach",
]

_HOMES = {
    "errors": ("CostError", "BudgetBelowReach"),
    "units": ("Resource", "Budget", "parse_budget", "format_quantity"),
    "parts": ("LayerCost", "FixedCost"),
    "table": ("CostTable",),
    "expected": ("sharing_probabilities", "expected_groups", "expected_cost", "expected_layer_costs"),
    "forms": ("expected_from_groupings", "partition_costs"),
    "groupings": ("grouping_probabilities",),
    "partitions": ("Grouping",),
    "decode": (
        "Decoded",
        "argmax_architecture",
        "architecture_from_draws",
        "best_architecture",
        "pareto_front",
    ),
    "reach": ("budget_range", "check_budgets"),
    "controller": ("Multiplier",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the file that holds a public name when the name is asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})

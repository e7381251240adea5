"""The multiplier: sets the weight of a cost in the loss so that the expected cost meets the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from costs.errors import CostError
from costs.reach import budget_range, check_budgets
from costs.table import CostTable
from costs.units import Budget, Resource

MAXIMUM = 1000.0
"""Default bound of a multiplier: a cost that weighs a thousand times its budget leaves nothing of the task losses."""
_PROPORTIONAL = 50.0
"""Gain of the present gap: a gap of 2 % of the reach moves the multiplier by its own size plus one. This damps: the
cost stops weighing just below the budget, long before the integral has unwound."""
_INTEGRAL = 0.05
"""Gain of the gaps summed up: a gap of the whole reach raises the integral by 5 % an update."""


class Multiplier:
    """Dual ascent on the gap between the expected cost and each budget, with a damping proportional part.

    Meant for the loss `task_loss + sum_r multiplier_r * expected_r / budget_r`, updated once per step of the
    architecture parameters. With the gap g = (expected - budget) / reach, where the reach is the cost of the dearest
    architecture minus that of the cheapest (the range that an expected cost can move in, so g <= 1, and g >= -1 for budgets
    in that range), and s = 1 + integral:

        integral   <- clip(integral + 0.05 g s, 0, maximum)
        multiplier <- clip(integral + 50 g s, 0, maximum)

    The factor s makes the steps relative to the multiplier once it is above 1: how strong a cost must be to hold its
    budget depends on the scale of the task losses, over orders of magnitude, and no user has to tune it. The gains were
    chosen on toy searches with task losses of scale 0.1 to 10, learning rates of 0.01 to 0.2 and budgets over the whole
    reach: typically within 2 % of the budget after a few hundred updates.

    A budget that the search keeps anyway ends with multiplier 0. Several budgets are followed independently.
    """

    def __init__(self, table: CostTable, budgets: Sequence[Budget | str], *, maximum: float = MAXIMUM) -> None:
        """Start with multipliers 0.

        Raises BudgetBelowReach if a budget is below the cheapest architecture, CostError if the table lacks a
        resource or `maximum` is not a positive number.
        """
        checked = check_budgets(table, budgets)
        ranges = {budget.resource: budget_range(table, budget.resource) for budget in checked}
        self._begin(checked, {resource: high - low for resource, (low, high) in ranges.items()}, maximum)

    @classmethod
    def over(
        cls, budgets: Sequence[Budget], reaches: Mapping[Resource, float], *, maximum: float = MAXIMUM
    ) -> Multiplier:
        """Return multipliers 0 for networks that are no trees: `reaches` are the costs of the dearest minus those of the cheapest."""
        made = cls.__new__(cls)
        made._begin(budgets, reaches, maximum)
        return made

    def _begin(self, budgets: Sequence[Budget], reaches: Mapping[Resource, float], maximum: float) -> None:
        if not (math.isfinite(maximum) and maximum > 0):
            raise CostError(f"maximum of the multiplier: found {maximum}, expected a positive number such as {MAXIMUM}")
        self._maximum = maximum
        self._budgets: dict[Resource, float] = {}
        for budget in budgets:
            self._budgets[budget.resource] = min(budget.value, self._budgets.get(budget.resource, math.inf))
        self._reaches = {resource: reaches[resource] for resource in self._budgets}
        self._integrals = dict.fromkeys(self._budgets, 0.0)
        self._values = dict.fromkeys(self._budgets, 0.0)
        self._updates = 0

    @property
    def values(self) -> dict[Resource, float]:
        """The multipliers as the last update left them, 0 before the first."""
        return dict(self._values)

    def update(self, expected: Mapping[Resource, float]) -> dict[Resource, float]:
        """Take in the expected costs (base units) and return the multiplier of each resource that has a budget.

        The costs are whatever `float` takes, also tensors of one number. Raises CostError, and changes nothing, if the expected cost of one of them is missing or not finite.
        """
        values = {resource: self._number(expected, resource) for resource in self._budgets}
        for resource, budget in self._budgets.items():
            reach = self._reaches[resource]
            # One task, or layers without cost: the cost cannot move, so there is nothing to drive.
            gap = (values[resource] - budget) / reach if reach > 0 else 0.0
            scale = 1.0 + self._integrals[resource]
            self._integrals[resource] = self._clip(self._integrals[resource] + _INTEGRAL * gap * scale)
            self._values[resource] = self._clip(self._integrals[resource] + _PROPORTIONAL * gap * scale)
        self._updates += 1
        return self.values

    def state_dict(self) -> dict[str, object]:
        """Return the state as plain JSON values, for the checkpoint."""
        return {
            "integrals": {resource.value: value for resource, value in self._integrals.items()},
            "values": {resource.value: value for resource, value in self._values.items()},
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state of `state_dict`. Raises CostError if it is malformed or of other budgets."""
        integrals, values = self._read(state, "integrals"), self._read(state, "values")
        updates = state.get("updates")
        if not isinstance(updates, int) or isinstance(updates, bool) or updates < 0:
            raise CostError(f"state of the multiplier: 'updates' is {updates!r}, expected a count")
        self._integrals, self._values, self._updates = integrals, values, updates

    def _read(self, state: Mapping[str, object], key: str) -> dict[Resource, float]:
        found = state.get(key)
        names = {resource.value: resource for resource in self._budgets}
        if not isinstance(found, Mapping) or set(found) != set(names):
            raise CostError(
                f"state of the multiplier: {key!r} is {found!r}, expected one number for each budget: "
                f"{', '.join(names) or 'none'}. Continue a search with the budgets that it was started with"
            )
        for name, value in found.items():
            if not isinstance(value, int | float) or not 0 <= value <= self._maximum:
                raise CostError(f"state of the multiplier: {key}.{name} is {value!r}, expected 0 to {self._maximum:g}")
        return {names[name]: float(value) for name, value in found.items()}

    def _number(self, expected: Mapping[Resource, float], resource: Resource) -> float:
        if not isinstance(expected, Mapping):
            raise CostError(f"expected costs: found {expected!r}, expected a mapping; give {{resource: cost}}")
        found: Any = expected.get(resource, "none")
        try:
            value = float(found.detach() if hasattr(found, "detach") else found)
        except (TypeError, ValueError, RuntimeError):  # the last from tensors of several numbers
            value = math.nan
        if not math.isfinite(value):
            raise CostError(f"expected cost in {resource}: found {found}, but its budget needs a finite number")
        return value

    def _clip(self, value: float) -> float:
        return min(max(value, 0.0), self._maximum)

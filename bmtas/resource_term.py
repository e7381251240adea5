"""What the cost of the network adds to the loss of a search: by a budget, by a fixed weight as in the paper, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bmtas.config import ResourceTermKind, SearchSettings
from costs.controller import Multiplier
from costs.units import Budget, Resource

_PER_WEIGHT = 1e9
"""A fixed weight is in loss per GMAdds, as the paper's."""


class ResourceTerm:
    """The second summand of the search loss (paper, Eq. 4), and the multipliers that belong to it.

    - by a budget: task_losses * sum over budgets of multiplier * expected cost / budget, with the multipliers of
      `costs.controller.Multiplier`. The task losses' own size makes one multiplier mean the same for any set of tasks.
    - by a fixed weight: weight * expected GMAdds, once per step (paper, Eq. 4, lambda).
    - none: 0. The expected cost is still computed, to be seen.
    """

    def __init__(self, budgets: Sequence[Budget], reaches: Mapping[Resource, float], settings: SearchSettings) -> None:
        """Start with multipliers 0; `reaches` are by how much a network of the space can cost more than the cheapest one."""
        self._budgets, self._settings = tuple(budgets), settings
        self._multiplier = Multiplier.over(budgets, reaches)

    @property
    def kind(self) -> ResourceTermKind:
        """How the cost enters the loss."""
        return self._settings.resource_term

    def within(self, expected: Mapping[Resource, Tensor]) -> bool:
        """Say whether the expected costs are within all budgets."""
        return all(float(expected[b.resource].detach()) <= b.value for b in self._budgets)

    def __call__(self, expected: Mapping[Resource, Tensor], task_losses: float, record: dict[str, float]) -> Tensor:
        """Return the term, a scalar, and write costs and multipliers into `record`; multipliers are updated."""
        for resource, cost in expected.items():
            record[f"expected.{resource.value}"] = float(cost.detach())
        if self.kind is ResourceTermKind.NONE:
            return torch.zeros((), dtype=torch.float64)
        if self.kind is ResourceTermKind.WEIGHT:
            assert self._settings.resource_weight is not None  # checked with the settings
            return self._settings.resource_weight * expected[Resource.MADDS] / _PER_WEIGHT
        multipliers = self._multiplier.update({r: float(v.detach()) for r, v in expected.items()})
        term = torch.zeros((), dtype=torch.float64)
        for budget in self._budgets:
            term = term + multipliers[budget.resource] * expected[budget.resource] / budget.value
            record[f"multiplier.{budget.resource.value}"] = float(multipliers[budget.resource])
        return task_losses * term

    def state_dict(self) -> dict[str, object]:
        """Return the state of the multipliers as plain values."""
        return self._multiplier.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state of `state_dict`. Raises CostError if it is malformed or of other budgets."""
        self._multiplier.load_state_dict(state)


def shown_resources(budgets: Sequence[Budget]) -> tuple[Resource, ...]:
    """Return the resources whose expected cost a search computes: those of the budgets; MAdds to be seen where there is none."""
    return tuple(budget.resource for budget in budgets) or (Resource.MADDS,)

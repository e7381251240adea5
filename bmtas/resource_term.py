"""What the cost of the network adds to the loss of a search: by a budget, by a fixed weight as in the paper, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bmtas.config import CostEstimate, ResourceTermKind, SearchSettings
from costs.controller import Multiplier
from costs.expected import expected_cost, expected_layer_costs
from costs.published import published_layer_costs
from costs.table import CostTable
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

    def __init__(self, table: CostTable, budgets: Sequence[Budget], settings: SearchSettings) -> None:
        """Start with multipliers 0. Raises as `Multiplier` does."""
        self._table, self._budgets, self._settings = table, tuple(budgets), settings
        # With no budget there is still something to be seen.
        self._resources = tuple(b.resource for b in budgets) or (Resource.MADDS,)
        self._multiplier = Multiplier(table, budgets)

    @property
    def kind(self) -> ResourceTermKind:
        """How the cost enters the loss."""
        return self._settings.resource_term

    def expected(self, logits: Tensor) -> dict[Resource, Tensor]:
        """Return what stands for the cost in each resource, scalars in base units, for the logits (L, T, C)."""
        probabilities = torch.softmax(logits, dim=-1)
        if self._settings.cost_estimate is CostEstimate.PUBLISHED:
            return {
                r: published_layer_costs(probabilities, self._table, r).sum() + self._table.fixed_cost(r)
                for r in self._resources
            }
        return {r: expected_in(probabilities, self._table, r) for r in self._resources}

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


def expected_in(probabilities: Tensor, table: CostTable, resource: Resource) -> Tensor:
    """Return what stands for the cost in the loss, a scalar in base units, differentiable in `probabilities` (L, T, C).

    For sums it is the exact expected cost. For a peak it is the greatest of the layers' expected costs and the fixed
    cost. That is a lower bound of the expected peak (Jensen: the maximum of means is at most the mean of maxima), equal
    to it once the probabilities are certain. The architecture that is handed over keeps its exact peak within the
    budget all the same: the decoder sees to that.

    Raises CostError as `costs.expected.expected_layer_costs` does.
    """
    if not resource.is_peak:
        return expected_cost(probabilities, table, resource)
    layers = expected_layer_costs(probabilities, table, resource)
    return torch.cat([layers, layers.new_tensor([table.fixed_cost(resource)])]).max()

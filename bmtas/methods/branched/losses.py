"""The expected cost of the trees that the architecture parameters stand for: exact, or as published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bmtas.config import CostEstimate
from costs.expected import expected_cost, expected_layer_costs
from costs.published import published_layer_costs
from costs.table import CostTable
from costs.units import Resource


def expected_costs(
    logits: Tensor, table: CostTable, resources: Sequence[Resource], estimate: CostEstimate = CostEstimate.EXACT
) -> dict[Resource, Tensor]:
    """Return what stands for the cost in each resource, scalars in base units, for the logits (L, T, C)."""
    probabilities = torch.softmax(logits, dim=-1)
    if estimate is CostEstimate.PUBLISHED:
        return {r: published_layer_costs(probabilities, table, r).sum() + table.fixed_cost(r) for r in resources}
    return {r: expected_in(probabilities, table, r) for r in resources}


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

"""Corrects a table by a whole network that was measured after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from costs.errors import CostError
from costs.measurement import Correction
from costs.table import CostTable
from costs.units import Resource, as_resource

_ROUNDED_UP: Final = 1e-12
"""Above the rounding of a sum of scaled costs."""


def scaled(table: CostTable, resource: Resource, factor: float) -> CostTable:
    """Return the table with all costs in `resource` multiplied by `factor`. Raises CostError if it is no positive number."""
    resource = as_resource(resource)
    table.dependence(resource)  # raises where the table does not know it
    if not (math.isfinite(factor) and factor > 0):
        raise CostError(f"{resource}: found the factor {factor}; it is to be positive and finite")
    layers = []
    for layer in table.layers:
        update: dict[str, Any] = {}
        if resource in layer.per_group:
            update["per_group"] = {**layer.per_group, resource: factor * layer.per_group[resource]}
        if resource in layer.per_count:
            costs = [factor * cost for cost in layer.per_count[resource]]
            update["per_count"] = {**layer.per_count, resource: costs}
        if resource in layer.per_partition:
            costs_of = {key: factor * cost for key, cost in layer.per_partition[resource].items()}
            update["per_partition"] = {**layer.per_partition, resource: costs_of}
        layers.append(layer.model_copy(update=update))
    fixed = [
        part.model_copy(update={"cost": {**part.cost, resource: factor * part.cost[resource]}}) for part in table.fixed
    ]
    return table.model_copy(update={"layers": layers, "fixed": fixed})


def corrected(
    table: CostTable, resource: Resource, group_counts: Sequence[int], predicted: float, median: float, upper: float
) -> CostTable:
    """Return the table scaled by `upper` / `predicted` (base unit): the upper end of what one network was measured to take, and what the
    table said. Both are noted in it; a margin that it had is gone.

    One network says how far the table is off as a whole, and not in which layer. The factor is rounded up, so that a network that was
    measured to be over a budget is over it by the corrected table, too, and is not found again. Raises CostError if one of
    the two is no positive number, or the table says nothing of the resource.
    """
    resource = as_resource(resource)
    factor = upper / predicted * (1 + _ROUNDED_UP) if predicted > 0 else math.inf
    result = scaled(table, resource, factor)  # raises where the factor is none
    known = table.measured.get(resource)
    if known is None:
        return result
    note = Correction(group_counts=list(group_counts), predicted=predicted, median=median, upper=upper, factor=factor)
    noted = known.model_copy(update={"corrections": [*known.corrections, note], "margin": 1.0})
    return result.model_copy(update={"measured": {**table.measured, resource: noted}})


def with_margin(table: CostTable, resource: Resource) -> CostTable:
    """Return the table with costs as much higher as the worst held-out network was above it; as it is if it has that margin already.

    For where the network found cannot be measured. Raises CostError if the table does not say how the resource was measured.
    """
    resource = as_resource(resource)
    known = table.measured.get(resource)
    if known is None:
        raise CostError(
            f"{resource}: the table does not say how it was measured, so it has no held-out error to take a margin by"
        )
    margin = max(known.held_out.ratio_interval[1], 1.0)
    if known.margin >= margin:
        return table
    noted = known.model_copy(update={"margin": margin})
    higher = scaled(table, resource, margin / known.margin)
    return higher.model_copy(update={"measured": {**table.measured, resource: noted}})

"""Costs of any kind between two that are proportional to the number of groups, but for a constant per layer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from costs.forms import partition_costs
from costs.lattice import lattice_of
from costs.parts import FixedCost, LayerCost
from costs.splits import Floats
from costs.table import CostTable
from costs.units import Resource


def costs_by_count(table: CostTable, resource: Resource) -> tuple[Floats, Floats]:
    """Return the least and the greatest cost of each layer with 1..T groups alive, (L, T) each."""
    if table.dependence(resource) != "partition":
        costs = table.count_costs(resource)
        return costs, costs
    counts, costs = lattice_of(len(table.tasks)).counts, partition_costs(table, resource)
    order = np.argsort(counts, kind="stable")
    firsts = np.searchsorted(counts[order], np.arange(1, len(table.tasks) + 1))
    least: Floats = np.minimum.reduceat(costs[:, order], firsts, axis=1)
    most: Floats = np.maximum.reduceat(costs[:, order], firsts, axis=1)
    return least, most


def straight_tables(table: CostTable, resources: Iterable[Resource]) -> tuple[CostTable, CostTable]:
    """Return two tables proportional to the number of groups: nothing costs less by the first, nor more by the second.

    Only for resources that add up. What the lines are above 0 at no groups stands in the fixed part, at least 0.
    """
    known = tuple(resources)
    lines = [{}, {}]  # type: ignore[var-annotated]
    for resource in known:
        least, most = costs_by_count(table, resource)
        numbers = np.arange(1.0, least.shape[1] + 1)
        for i, (costs, worst) in enumerate(((least, np.min), (most, np.max))):
            rises = (costs[:, 1:] - costs[:, :1]) / (numbers[1:] - 1)
            slope = np.maximum(worst(rises, axis=1), 0.0)
            offset = worst(costs - slope[:, None] * numbers, axis=1)
            lines[i][resource] = slope, max(table.fixed_cost(resource) + float(offset.sum()), 0.0)
    below, above = (
        CostTable(
            backbone=table.backbone,
            tasks=table.tasks,
            input_size=table.input_size,
            batch=table.batch,
            layers=[
                LayerCost(name=layer.name, per_group={r: float(line[r][0][i]) for r in known})
                for i, layer in enumerate(table.layers)
            ],
            fixed=[FixedCost(name="fixed", shared=True, tasks=[], cost={r: line[r][1] for r in known})],
            provenance=table.provenance,
        )
        for line in lines
    )
    return below, above

"""The proof before a network is handed over: it is built, measured, and held against the cost table and the budgets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bmtas.architecture import Architecture
from bmtas.errors import BudgetError, BuildError
from bmtas.memory import BYTES_PER_MIB, peak_activations
from bmtas.networks.network import GraphNetwork
from bmtas.profile import count_network
from bmtas.tables import architecture_costs
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity


def measure_network(network: GraphNetwork, size: tuple[int, int]) -> dict[Resource, float]:
    """Return multiply-adds, parameters and peak memory of `network` itself, one image of `size` (height, width)."""
    count = count_network(network, size)
    peak = peak_activations(network, [torch.empty(1, 3, *size, device="meta")])
    return {
        Resource.MADDS: float(count.madds),
        Resource.PARAMS: float(count.params),
        Resource.PEAK_MEMORY_MIB: peak / BYTES_PER_MIB,
    }


def prove_costs(
    network: GraphNetwork, architecture: Architecture, table: CostTable, budgets: Sequence[Budget]
) -> tuple[dict[Resource, float], dict[Resource, float]]:
    """Return what the network of `architecture` costs by `table`, in all its resources, and what is measured on it.

    Multiply-adds and parameters are counted on the network, in its graph and by the table, and all three must agree;
    the measured peak memory must not exceed the table's. Other resources are the user's own and cannot be measured here.

    Raises BuildError if the table does not describe the network, BudgetError if a cost, by the table or as measured, is
    over a budget.
    """
    stated = architecture_costs(table, architecture)
    measured = measure_network(network, table.input_size)
    graph = {Resource.MADDS: network.graph.madds, Resource.PARAMS: network.graph.params}
    for resource, value in measured.items():
        if resource not in stated:  # a peak, of which a table of operations says nothing
            continue
        described = value <= stated[resource]
        if resource in graph:
            cost = graph[resource](lambda operation, r=resource: table.operation_cost(operation, r))  # type: ignore[misc]
            described = value == stated[resource] == cost
        if not described:
            raise BuildError(
                f"the built network has {_exactly(value, resource)}, the table says {_exactly(stated[resource], resource)}; "
                "the cost table does not describe this network"
            )
    for budget in budgets:
        cost = max(stated[budget.resource], measured.get(budget.resource, 0.0))
        if cost > budget.value:
            raise BudgetError(
                f"the network found has {_exactly(cost, budget.resource)}, over {budget.text}; "
                "it is not handed over. Search with a larger budget"
            )
    return stated, measured


def _exactly(value: float, resource: Resource) -> str:
    return format_quantity(value, resource, digits=7)

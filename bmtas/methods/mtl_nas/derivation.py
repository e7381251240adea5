"""From learned probabilities to a network of MTL-NAS within the budgets, and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bmtas.errors import BudgetError
from bmtas.methods.mtl_nas.relaxation import Supernet
from bmtas.methods.mtl_nas.settings import Gates
from bmtas.methods.mtl_nas.space import FusionSpace, fusion_name
from bmtas.networks.fusions import Fusion
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task
from costs.exact_sums import exact_sum
from costs.table import CostTable
from costs.units import Budget, format_quantity


@dataclass(frozen=True)
class Kept:
    """Which edges are kept, in the order of the space's, and which of them would be, were there no budget."""

    edges: tuple[bool, ...]
    wanted: tuple[bool, ...]


def discretise(probabilities: Tensor, kind: Gates, seed: int) -> list[bool]:
    """Return which edges the search wants: those likelier than one half (Gao et al., Eq. 9), or a sample by `seed`."""
    if kind is Gates.DETERMINISTIC:
        return [bool(keep) for keep in probabilities > 0.5]
    draws = torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [bool(keep) for keep in draws < probabilities]


def keep_within(
    space: FusionSpace, probabilities: Tensor, wanted: Sequence[bool], table: CostTable, budgets: Sequence[Budget]
) -> Kept:
    """Return the wanted edges that are within all budgets: our own choice, the paper knows no budget.

    While the network is over a budget, the edge of least probability per cost goes; the cost of an edge is what it takes of the budgets
    that are exceeded. Then edges that went come back where they fit after all, the most probable per cost first. Raises BudgetError
    where the network without any edge is over a budget.
    """
    kept = list(wanted)
    floors = [space.floor(table, b.resource) for b in budgets]
    costs = [space.edge_costs(table, b.resource) for b in budgets]

    def over() -> list[int]:
        return [
            k
            for k, budget in enumerate(budgets)
            if exact_sum([floors[k], *(c for c, keep in zip(costs[k], kept, strict=True) if keep)]) > budget.value
        ]

    def worth(edge: int, exceeded: Sequence[int]) -> float:
        return float(probabilities[edge]) / sum(costs[k][edge] / budgets[k].value for k in exceeded)

    gone: list[tuple[float, int]] = []
    while exceeded := over():
        present = [e for e, keep in enumerate(kept) if keep]
        if not present:
            raise _below(space, table, budgets[exceeded[0]])
        least = min(present, key=lambda e: worth(e, exceeded))
        kept[least] = False
        gone.append((worth(least, exceeded), least))
    for _, edge in sorted(gone, reverse=True):
        kept[edge] = True
        if over():
            kept[edge] = False
    return Kept(tuple(kept), tuple(wanted))


def _below(space: FusionSpace, table: CostTable, budget: Budget) -> BudgetError:
    least, most = (format_quantity(v, budget.resource, digits=4) for v in space.reach(table, budget.resource))
    return BudgetError(
        f"budget {budget.text}: mtl-nas keeps a whole backbone for each of {len(space.tasks)} tasks; reachable is {least} (no "
        f"feature of another task is fused) to {most}. Raise the budget, or take another --method"
    )


def trained_network(supernet: Supernet, tasks: Sequence[Task], kept: Sequence[bool]) -> GraphNetwork:
    """Return the network of the kept edges with the weights of the search, on the CPU.

    It computes what the supernet computes with gates of 1 for the edges that are kept and 0 for the others: the inputs of a fusion that are
    pruned are cut out of its convolution.
    """
    space = supernet.space
    network = build_network(space.architecture(kept), tasks)
    for module, operation in network.graph.modules().items():
        if not operation.startswith("fusions."):
            network.get_submodule(module).load_state_dict(supernet.whole.get_submodule(module).state_dict())
    for (task, node), place in space.targets.items():
        chosen = [True, *kept[place]]
        target = network.get_submodule(f"{fusion_name(node, sum(chosen))}.{task}")
        assert isinstance(target, Fusion)
        _cut(supernet.fusion(task, node), chosen, target)
    return network.eval()


def _cut(source: Fusion, chosen: Sequence[bool], target: Fusion) -> None:
    """Copy a fusion, of the inputs only those `chosen`."""
    with torch.no_grad():
        blocks = torch.chunk(source.conv.weight, source.inputs, dim=1)
        target.conv.weight.copy_(torch.cat([b for b, keep in zip(blocks, chosen, strict=True) if keep], dim=1))
    target.norm.load_state_dict(source.norm.state_dict())

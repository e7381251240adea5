"""Fills cost tables: what each operation of a backbone costs at one input size."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bmtas.counting import Count, count_module
from bmtas.errors import UsageError
from bmtas.graph import head_name
from bmtas.networks.backbone import Backbone
from bmtas.networks.heads import build_head
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task, TaskKind
from costs.expected import expected_cost
from costs.table import CostTable, FixedCost, LayerCost
from costs.units import Resource


def count_operations(backbone: Backbone, tasks: Sequence[Task], size: tuple[int, int]) -> dict[str, Count]:
    """Return the count of every operation (stem, layers, heads) for one image of `size` (height, width).

    Raises UsageError if the size is too small for the backbone.
    """
    smallest = 2 * backbone.stride
    if min(size) < smallest:
        raise UsageError(
            f"size {size[0]}x{size[1]}: {backbone.name} has output stride {backbone.stride} and needs at least "
            f"{smallest}x{smallest} pixels"
        )
    counts = {}
    values = [torch.zeros(1, 3, *size)]
    with torch.no_grad():
        for name, module in backbone.operations().items():
            module.eval()
            counts[name] = count_module(module, values[-1:])
            values.append(module(values[-1]))
        features, tap = values[-1], values[backbone.tap + 2]  # values[0] is the image, values[1] the stem's output
        for task in tasks:
            counts[head_name(task.name)] = count_module(build_head(task, backbone).eval(), [features, tap])
    return counts


def build_table(backbone: Backbone, tasks: Sequence[Task], size: tuple[int, int]) -> CostTable:
    """Return the table of multiply-adds and parameters for `tasks` on `backbone` at `size` (height, width), batch 1."""
    counts = count_operations(backbone, tasks, size)
    names = [task.name for task in tasks]
    stem = FixedCost(name="stem", shared=True, tasks=names, cost=_costs(counts["stem"]))
    heads = [FixedCost(name=head_name(n), shared=False, tasks=[n], cost=_costs(counts[head_name(n)])) for n in names]
    return CostTable(
        backbone=backbone.name,
        tasks=names,
        input_size=size,
        batch=1,
        layers=[LayerCost(name=n, per_group=_costs(counts[n])) for n in backbone.layer_names()],
        fixed=[stem, *heads],
        provenance={
            "counter": f"fvcore {importlib.metadata.version('fvcore')}, convolutions and linear layers",
            "torch": torch.__version__,
        },
    )


def generic_tasks(count: int) -> tuple[Task, ...]:
    """Return so many copies of one dense task with one channel: what is of interest is their number."""
    return tuple(Task(name=f"task{i}", kind=TaskKind.REGRESSION) for i in range(1, count + 1))


def cost_by_tasks(table: CostTable) -> list[dict[str, Any]]:
    """Return what the first 1, 2, ... T tasks of `table` cost, in base units, for each resource.

    `shared`, `split` and `separate` are totals of those networks, `expected` is the expected cost where every task
    takes each of as many candidates as there are tasks with equal probability, as at the start of a search.
    """
    rows = []
    for count in range(1, len(table.tasks) + 1):
        part = table.subset(table.tasks[:count])
        uniform = torch.full((len(part.layers), count, count), 1.0 / count, dtype=torch.float64)
        totals = {"shared": part.shared_total, "split": part.split_total, "separate": part.separate_total}
        row: dict[str, Any] = {"tasks": count}
        row |= {name: {r.value: total(r) for r in part.resources()} for name, total in totals.items()}
        row["expected"] = {r.value: float(expected_cost(uniform, part, r)) for r in part.resources()}
        rows.append(row)
    return rows


def count_network(network: nn.Module, size: tuple[int, int]) -> Count:
    """Count a whole network by fvcore, one image of `size` (height, width): the check of what a table predicts."""
    was_training = network.training
    network.eval()
    target = _AsTuple(network) if isinstance(network, GraphNetwork) else network
    with torch.no_grad():
        count = count_module(target, [torch.zeros(1, 3, *size)])
    network.train(was_training)
    return count


class _AsTuple(nn.Module):
    """Gives a network's predictions as a tuple, which is all that tracing understands."""

    def __init__(self, network: GraphNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.network(image).values())

    def extra_repr(self) -> str:
        """Say how the parts are wired, which the list of modules does not: it is content that a count depends on."""
        return repr(self.network.graph)


def _costs(count: Count) -> dict[Resource, float]:
    return {Resource.MADDS: count.madds, Resource.PARAMS: count.params}

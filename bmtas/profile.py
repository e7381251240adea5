"""Fills cost tables: what each operation of a backbone costs at one input size."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bmtas.activations import Activations, measure_activations
from bmtas.counting import Count, count_module
from bmtas.errors import UsageError
from bmtas.expectation import expected_totals
from bmtas.graph import head_name
from bmtas.networks.backbone import Backbone
from bmtas.networks.heads import build_head
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task, TaskKind
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
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
    """Return the table for `tasks` on `backbone` at `size` (height, width), batch 1.

    Multiply-adds and parameters are proportional to the number of groups. Peak memory (MiB of float32 activations)
    depends on that number in each layer and is the bound of `bmtas.activations.Activations.layer_mib`: no network has a
    higher peak than its figure here. Raises UsageError if the size is too small for the backbone.
    """
    return tables_by_count(backbone, tasks, size, [len(tasks)])[0]


def tables_by_count(
    backbone: Backbone, tasks: Sequence[Task], size: tuple[int, int], counts: Sequence[int]
) -> list[CostTable]:
    """Return, for each of `counts`, the table of the first so many of `tasks`, as `build_table` makes it.

    `CostTable.subset` would not do: how much memory is needed in the end depends on how many predictions are kept.
    """
    counted = count_operations(backbone, tasks, size)
    activations = measure_activations(backbone, tasks, size)
    return [_assemble(backbone, tasks[:count], size, counted, activations) for count in counts]


def _assemble(
    backbone: Backbone,
    tasks: Sequence[Task],
    size: tuple[int, int],
    counts: dict[str, Count],
    activations: Activations,
) -> CostTable:
    names = [task.name for task in tasks]
    stem = _costs(counts["stem"]) | {Resource.PEAK_MEMORY_MIB: activations.stem_mib()}
    heads = [
        _costs(counts[head_name(n)]) | {Resource.PEAK_MEMORY_MIB: activations.head_mib(k)} for k, n in enumerate(names)
    ]
    return CostTable(
        backbone=backbone.name,
        tasks=names,
        input_size=size,
        batch=1,
        depends_on={
            Resource.MADDS: "groups_proportional",
            Resource.PARAMS: "groups_proportional",
            Resource.PEAK_MEMORY_MIB: "group_count",
        },
        layers=[
            LayerCost(
                name=name,
                per_group=_costs(counts[name]),
                per_count={Resource.PEAK_MEMORY_MIB: activations.layer_mib(i, len(names))},
            )
            for i, name in enumerate(backbone.layer_names())
        ],
        fixed=[
            FixedCost(name="stem", shared=True, tasks=names, cost=stem),
            *(
                FixedCost(name=head_name(n), shared=False, tasks=[n], cost=cost)
                for n, cost in zip(names, heads, strict=True)
            ),
        ],
        provenance={
            "counter": f"fvcore {importlib.metadata.version('fvcore')}, convolutions and linear layers",
            "memory": "float32 activations of PyTorch's eager mode, an upper bound by number of groups",
            "torch": torch.__version__,
        },
    )


def generic_tasks(count: int) -> tuple[Task, ...]:
    """Return so many copies of one dense task with one channel: what is of interest is their number."""
    return tuple(Task(name=f"task{i}", kind=TaskKind.REGRESSION) for i in range(1, count + 1))


def uniform_probabilities(layers: int, tasks: int) -> npt.NDArray[np.float64]:
    """Return where a search starts: every task takes each of T candidates with equal probability, (L, T, T)."""
    return np.full((layers, tasks, tasks), 1.0 / tasks)


def cost_by_tasks(tables: Sequence[CostTable]) -> list[dict[str, Any]]:
    """Return what the networks of each table cost, in base units, for each resource.

    `shared`, `split` and `separate` are totals of those networks, `expected` is the expected cost at the start of a
    search, and None for a peak, which is no sum, and where there are too many tasks for what a cost depends on.
    """
    rows = []
    for table in tables:
        totals = {"shared": table.shared_total, "split": table.split_total, "separate": table.separate_total}
        row: dict[str, Any] = {"tasks": len(table.tasks)}
        row |= {name: {r.value: total(r) for r in table.resources()} for name, total in totals.items()}
        rows.append(
            row | {"expected": expected_totals(table, uniform_probabilities(len(table.layers), len(table.tasks)))}
        )
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

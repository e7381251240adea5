"""Multiply-adds and parameters of networks that share by a fixed rule: as fvcore counts them, and as the paper has them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from bmtas.config import Method
from bmtas.methods.sharing.space import NETWORKS, open_space
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import count_operations_of
from bmtas.profile import build_table, count_network
from bmtas.tables import architecture_costs
from bmtas.tasks import TASK_SETS
from costs.table import CostTable
from costs.units import Resource
from tests.methods.sharing.few_tasks import SIZE, TASKS, kit_of


@functools.cache
def plain_table(backbone: str, count: int) -> CostTable:
    return build_table(get_backbone(backbone), TASKS[:count], SIZE)


@pytest.mark.parametrize(
    ("backbone", "count"), [("tiny", 1), ("tiny", 2), ("tiny", 3), ("tiny", 4), ("mobilenet_v2", 2)]
)
@pytest.mark.parametrize("method", NETWORKS)
def test_costs_are_what_fvcore_counts_of_the_network(method: Method, backbone: str, count: int) -> None:
    tasks = TASKS[:count]
    kit = kit_of(backbone, tasks)
    space = open_space(method, kit, {})
    table = with_operations(plain_table(backbone, count), space, kit)
    costs = architecture_costs(table, space.architecture)
    counted = count_network(build_network(space.architecture, tasks), SIZE)
    assert costs == {Resource.MADDS: counted.madds, Resource.PARAMS: counted.params}
    assert list(space.cover()) == [space.random(np.random.default_rng(0))] == [space.architecture]
    for resource, cost in costs.items():
        assert space.reach(table, resource) == (cost, cost)


# Bruggemann et al., BMVC 2020, in GMAdds: table 1 (PASCAL-Context, MobileNetV2, 512x512) and table 2 (NYUD-v2, ResNet-50; 425x560 is the
# size at which Single and Shared have the paper's numbers).
@pytest.mark.parametrize(
    ("backbone", "tasks", "size", "paper"),
    [
        ("mobilenet_v2", "pascal-context", (512, 512), {"cross-stitch": 15.7, "nddr-cnn": 21.8, "mtan": 9.5}),
        pytest.param(
            *("resnet50", "nyud-v2", (425, 560), {"cross-stitch": 254.4, "nddr-cnn": 366.2, "mtan": 600.1}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_multiply_adds_of_the_papers_tables(
    backbone: str, tasks: str, size: tuple[int, int], paper: dict[str, float]
) -> None:
    kit = kit_of(backbone, TASK_SETS[tasks])
    for name, expected in paper.items():
        graph = open_space(Method(name), kit, {}).architecture.merged
        counts = count_operations_of(graph, kit, size)
        found = sum(counts[node.operation].madds for node in graph.nodes)
        assert found / 1e9 == pytest.approx(expected, rel=0.01)

"""What networks of AutoMTL cost by the table, against fvcore on the networks as they are built."""

from __future__ import annotations

import numpy as np
import pytest

from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.profile import build_table, count_network
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.units import Resource

TASKS = (Task(name="depth", kind=TaskKind.DEPTH), Task(name="normals", kind=TaskKind.NORMALS))


@pytest.mark.parametrize(
    ("backbone", "networks"), [("tiny", 12), pytest.param("tiny", 60, marks=pytest.mark.slow), ("mobilenet_v2", 1)]
)
def test_costs_are_those_of_the_built_network(backbone: str, networks: int) -> None:
    kit = Kit(get_backbone(backbone), {task.name: task for task in TASKS})
    space = ConvolutionSpace(kit)
    table = with_operations(build_table(kit.backbone, TASKS, (64, 64)), space, kit)
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(networks):
        architecture = space.random(rng)
        costs = architecture_costs(table, architecture)
        counted = count_network(build_network(architecture, TASKS), (64, 64))
        assert (costs[Resource.MADDS], costs[Resource.PARAMS]) == (counted.madds, counted.params)
        seen.add((counted.madds, counted.params))
    assert len(seen) > networks // 2

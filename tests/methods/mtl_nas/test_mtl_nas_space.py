"""The space of MTL-NAS: which edges there are, what the networks cost, and what they can cost at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bmtas.architecture import Architecture
from bmtas.errors import UsageError
from bmtas.methods.mtl_nas.space import Edge, FusionSpace
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.profile import build_table, count_network
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

TASKS = (
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="parts", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
)
SIZE = (64, 64)


def space_of(backbone: str, tasks: int = 2) -> FusionSpace:
    return FusionSpace(get_backbone(backbone), tuple(task.name for task in TASKS[:tasks]))


def table_of(space: FusionSpace) -> CostTable:
    tasks = TASKS[: len(space.tasks)]
    kit = Kit(space.backbone, {task.name: task for task in tasks})
    return with_operations(build_table(space.backbone, tasks, SIZE), space, kit)


@pytest.fixture(scope="module")
def tiny() -> tuple[FusionSpace, CostTable]:
    space = space_of("tiny", 3)
    return space, table_of(space)


# A stage of n nodes has 1 + 2 + 3 + 3 + ... edges. VGG-16: (2, 2, 3, 3, 3), paper 2^24; ResNet-50 with its stem (1, 3, 4, 6, 3), paper
# 2^37; MobileNetV2 (1, 1, 2, 3, 4, 3, 3, 1); tiny (4, 3).
@pytest.mark.parametrize(
    ("backbone", "edges"),
    [
        ("vgg16", 3 + 3 + 6 + 6 + 6),
        ("resnet50", 1 + 6 + 9 + 15 + 6),
        ("mobilenet_v2", 1 + 1 + 3 + 6 + 9 + 6 + 6 + 1),
        ("tiny", 9 + 6),
    ],
)
def test_number_of_edges_per_direction(backbone: str, edges: int) -> None:
    for tasks in (2, 3):
        assert len(space_of(backbone, tasks).edges) == edges * tasks * (tasks - 1)


def test_sources_of_a_target() -> None:
    space = space_of("vgg16", 3)
    place = space.targets["depth", "layers.05"]  # conv3_3, the third of its stage
    found = space.edges[place]
    assert found == tuple(
        Edge("depth", "layers.05", other, source)
        for source in ("layers.03", "layers.04", "layers.05")
        for other in ("normals", "parts")
    )
    first = space.edges[space.targets["depth", "layers.03"]]  # conv3_1, the first of its stage
    assert {edge.source_node for edge in first} == {"layers.03"}
    assert "layers.12" not in space.nodes  # the LargeFOV module is each task's own
    assert sum(place.stop - place.start for place in space.targets.values()) == len(space.edges)


def test_one_task_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\['normals'\] alone; name two tasks or more"):
        space_of("tiny", 1)


def test_wiring_of_a_small_network() -> None:
    space = space_of("tiny")
    wanted = Edge("depth", "layers.01", "normals", "layers.00")
    graph = space.architecture([edge == wanted for edge in space.edges]).merged
    inputs = {node.name: node.inputs for node in graph.nodes}
    # The source is the raw output, not what the other task has fused; the own features come first.
    assert inputs["fusions.layers.01.2.depth"] == ("layers.01.depth", "layers.00.normals")
    assert inputs["layers.02.depth"] == ("fusions.layers.01.2.depth",)
    assert inputs["layers.01.normals"] == ("fusions.layers.00.1.normals",)
    assert inputs["fusions.layers.01.1.normals"] == ("layers.01.normals",)
    assert inputs["heads.depth"] == ("fusions.layers.05.1.depth",) * 2  # the tap of `tiny` is its last layer
    assert set(graph.subset(["normals"]).modules()) == {
        module for module in graph.modules() if not module.endswith("depth")
    }


def test_heads_read_the_fused_tap() -> None:
    graph = space_of("mobilenet_v2").architecture([False] * 66).merged
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert inputs["heads.depth"] == ("layers.17.depth", "fusions.layers.02.1.depth")
    assert inputs["layers.17.depth"] == ("fusions.layers.16.1.depth",)


@pytest.mark.parametrize(
    ("tasks", "networks"),
    [(2, 12), (3, 5), pytest.param(2, 40, marks=pytest.mark.slow), pytest.param(3, 10, marks=pytest.mark.slow)],
)
def test_counted_costs_are_those_of_the_built_network(tasks: int, networks: int) -> None:
    space = space_of("tiny", tasks)
    table, rng = table_of(space), np.random.default_rng(0)
    seen = set()
    for _ in range(networks):
        architecture = space.random(rng)
        costs = architecture_costs(table, architecture)
        count = count_network(build_network(architecture, TASKS), SIZE)
        assert (costs[Resource.MADDS], costs[Resource.PARAMS]) == (count.madds, count.params)
        seen.add(count.madds)
    assert len(seen) > networks / 2


def test_counted_costs_on_mobilenet() -> None:
    space = space_of("mobilenet_v2")
    architecture = space.random(np.random.default_rng(1))
    costs = architecture_costs(table_of(space), architecture)
    count = count_network(build_network(architecture, TASKS[:2]), SIZE)
    assert (costs[Resource.MADDS], costs[Resource.PARAMS]) == (count.madds, count.params)


def test_reach_by_hand(tiny: tuple[FusionSpace, CostTable]) -> None:
    space, table = tiny
    # 16x16 places after the stem; 4 nodes of 12 channels, 3 of 4. A fusion of k inputs takes k C^2 per place, and 2 C parameters more.
    places, wide, narrow = 256, 144, 16
    separate = {r: table.separate_total(r) for r in (Resource.MADDS, Resource.PARAMS)}
    floor = {
        Resource.MADDS: separate[Resource.MADDS] + 3 * places * (4 * wide + 3 * narrow),
        Resource.PARAMS: separate[Resource.PARAMS] + 3 * (4 * (wide + 24) + 3 * (narrow + 8)),
    }
    edges = 6 * (9 * wide + 6 * narrow)
    assert space.reach(table, Resource.MADDS) == (floor[Resource.MADDS], floor[Resource.MADDS] + places * edges)
    assert space.reach(table, Resource.PARAMS) == (floor[Resource.PARAMS], floor[Resource.PARAMS] + edges)


def test_reach_is_that_of_the_extreme_networks(tiny: tuple[FusionSpace, CostTable]) -> None:
    space, table = tiny
    cover = [architecture_costs(table, architecture) for architecture in space.cover()]
    assert len(cover) == 1 + 3 * 2
    for resource in (Resource.MADDS, Resource.PARAMS):
        assert space.reach(table, resource) == (cover[0][resource], cover[-1][resource])


def test_every_operation_of_a_random_network_is_covered(tiny: tuple[FusionSpace, CostTable]) -> None:
    space, _ = tiny
    covered = {operation for a in space.cover() for operation in a.merged.modules().values()}
    rng = np.random.default_rng(2)
    for _ in range(50):
        assert set(space.random(rng).merged.modules().values()) <= covered


def test_the_json_is_the_network() -> None:
    architecture = space_of("mobilenet_v2").random(np.random.default_rng(3))
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_predictions_have_the_image_s_size() -> None:
    space = space_of("tiny", 3)
    torch.manual_seed(0)
    network = build_network(space.random(np.random.default_rng(4)), TASKS).eval()
    with torch.no_grad():
        shapes = {name: tuple(x.shape) for name, x in network(torch.zeros(2, 3, 64, 96)).items()}
    assert shapes == {"normals": (2, 3, 64, 96), "depth": (2, 1, 64, 96), "parts": (2, 2, 64, 96)}

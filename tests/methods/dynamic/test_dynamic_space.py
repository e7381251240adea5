"""The space of dynamic topologies: which arcs there are, what tasks share, what networks cost and can cost at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch

from bmtas.architecture import Architecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.graph import IMAGE, MergedGraph
from bmtas.methods.dynamic.space import TopologySpace, open_space
from bmtas.methods.dynamic.topology import Arc, ArcCosts, Kept, Topology
from bmtas.methods.dynamic.ways import cheapest_way
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.networks.states import State
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
COUNTED = (Resource.MADDS, Resource.PARAMS)


def kit_of(backbone: str, tasks: int) -> Kit:
    return Kit(get_backbone(backbone), {task.name: task for task in TASKS[:tasks]})


def opened(backbone: str, flow: int, tasks: int) -> tuple[TopologySpace, CostTable]:
    kit = kit_of(backbone, tasks)
    space = open_space(Method.DYNAMIC, kit, {"flow": flow})
    return space, with_operations(build_table(kit.backbone, TASKS[:tasks], SIZE), space, kit)


@pytest.fixture(scope="module")
def tiny() -> tuple[TopologySpace, CostTable]:
    return opened("tiny", 3, 3)


@pytest.fixture(scope="module")
def mobilenet() -> TopologySpace:
    return open_space(Method.DYNAMIC, kit_of("mobilenet_v2", 2), {"flow": 3})


def test_arcs_by_hand() -> None:
    topology = open_space(Method.DYNAMIC, kit_of("tiny", 2), {"flow": 2}).topology
    read_ins, read_outs = [(0, j) for j in range(1, 7)], [(i, 7) for i in range(1, 7)]
    links = [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5), (4, 6), (5, 6)]
    assert list(topology.arcs) == read_ins + links + read_outs
    assert topology.links == 9
    assert topology.tap is None  # heads of `tiny` read the last layer twice


@pytest.mark.parametrize("backbone", ["tiny", "vgg16", "mobilenet_v2", "resnet50"])
def test_flow_of_as_many_states_is_no_restriction(backbone: str) -> None:
    kit = kit_of(backbone, 2)
    count = len(open_space(Method.DYNAMIC, kit, {"flow": 1}).topology.states)
    free = open_space(Method.DYNAMIC, kit, {"flow": count}).topology
    assert set(free.arcs) == set(itertools.combinations(range(count + 2), 2)) - {(0, count + 1)}  # strides never fall
    assert free.arcs == open_space(Method.DYNAMIC, kit, {"flow": count + 7}).topology.arcs
    assert free.links == count * (count - 1) // 2


def test_no_link_leads_to_a_smaller_stride() -> None:
    topology = Topology((State(4, 1), State(4, 4), State(4, 2), State(4, 4)), flow=4, tap=None)
    links = [arc for arc in topology.arcs if arc[0] >= 1 and arc[1] <= 4]
    assert links == [(1, 2), (1, 3), (1, 4), (2, 4), (3, 4)]


def test_tap_of_mobilenet_v2_is_the_state_after_its_third_block() -> None:
    topology = open_space(Method.DYNAMIC, kit_of("mobilenet_v2", 2), {}).topology
    assert topology.tap == 4
    assert topology.states[topology.tap - 1] == State(24, 4)


def test_tasks_share_as_long_as_they_keep_the_same_single_arcs(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    first = frozenset({(0, 1), (1, 2), (2, 3), (3, 7)})
    second = frozenset({(0, 1), (1, 2), (2, 4), (4, 7)})
    third = frozenset({(0, 1), (0, 2), (1, 2), (2, 4), (4, 7)})  # its state 2 is a sum
    architecture = space.architecture([first, second, third])
    nodes = {node.name: node for node in architecture.merged.nodes}
    assert nodes["stem.shared"].tasks == ("normals", "depth", "parts")
    assert nodes["links.01.02.shared"].tasks == ("normals", "depth", "parts")
    assert nodes["links.02.03.shared"].tasks == ("normals",)
    applied = [node for node in nodes.values() if node.operation == "links.02.04"]
    assert [node.tasks for node in applied] == [("depth",), ("parts",)]
    assert {node.module for node in applied} == {"links.02.04.shared"}
    assert nodes["sums.2.02.parts"].inputs == ("read_ins.02.shared", "links.01.02.shared")

    # By hand: images of 16x16 at stride 4; a stem of 4x4, 3 -> 12; a read-in 3 -> 12; links 12 -> 12 of 1296, read-out 12 -> 4; each task its own layer and head.
    places = 16 * 16
    stem, link, read_in, read_out = 16 * 3 * 12, 9 * 12 * 12, 3 * 12, 12 * 4
    own = sum(table.operation_cost(f"heads.{t.name}", Resource.MADDS) for t in TASKS) + 3 * 1680 * places
    expected = own + places * (stem + read_in + (1 + 1 + 2) * link + 3 * read_out)
    assert architecture_costs(table, architecture)[Resource.MADDS] == expected


def draws(space: TopologySpace, count: int) -> Iterable[tuple[Kept, ...]]:
    rng = np.random.default_rng(0)
    return [space.random_kept(rng) for _ in range(count)]


def check_counts(space: TopologySpace, table: CostTable, number: int) -> None:
    tasks = TASKS[: len(space.tasks)]
    for kept in draws(space, number):
        architecture = space.architecture(kept)
        count, costs = count_network(build_network(architecture, tasks), SIZE), architecture_costs(table, architecture)
        assert costs == {Resource.MADDS: count.madds, Resource.PARAMS: count.params}
        assert costs == {resource: space.costs(table, resource).total(kept) for resource in COUNTED}


def test_costs_of_random_networks_are_those_that_fvcore_counts(tiny: tuple[TopologySpace, CostTable]) -> None:
    check_counts(*tiny, 3)
    check_counts(*opened("tiny", 1, 2), 47)


@pytest.mark.slow
def test_costs_of_mobilenet_v2_are_those_that_fvcore_counts() -> None:
    check_counts(*opened("mobilenet_v2", 1, 2), 1)


def test_random_networks_have_no_dead_ends(mobilenet: TopologySpace) -> None:
    space = mobilenet
    for kept in draws(space, 100):
        for arcs in kept:
            reads = {state: _closure(state, arcs, 0, 1) for state in range(space.topology.read_out + 1)}
            needed = _closure(space.topology.read_out, arcs, 1, 0) | _closure(4, arcs, 1, 0)
            assert {0, 4, space.topology.read_out} <= reads[0] & needed
            assert all(i in reads[0] and j in needed for i, j in arcs)


def _closure(start: int, arcs: Kept, near: int, far: int) -> set[int]:
    """Return what is reached from a state by following arcs from their end `near` to their end `far`."""
    found, front = {start}, [start]
    while front:
        state = front.pop()
        new = {arc[far] for arc in arcs if arc[near] == state} - found
        found |= new
        front += new
    return found


def test_random_networks_differ_and_share(tiny: tuple[TopologySpace, CostTable]) -> None:
    kept = draws(tiny[0], 60)
    assert len(set(kept)) > 40
    assert min(len(arcs) for tasks in kept for arcs in tasks) <= 3
    assert max(len(arcs) for tasks in kept for arcs in tasks) >= 22


def test_cover_has_every_operation(mobilenet: TopologySpace) -> None:
    space = mobilenet
    covered = {op for architecture in space.cover() for op in architecture.merged.modules().values()}
    assert {f"sums.{k}" for k in range(2, 19)} <= covered  # 18 states can be read out together
    for kept in draws(space, 30):
        assert set(space.architecture(kept).merged.modules().values()) <= covered


def test_json_and_subset(mobilenet: TopologySpace) -> None:
    architecture = mobilenet.architecture(next(iter(draws(mobilenet, 1))))
    read = Architecture.from_json(architecture.to_json())
    assert read.to_json() == architecture.to_json()
    alone: MergedGraph = architecture.subset(["depth"]).merged
    assert alone.tasks == ("depth",)
    assert all(name == IMAGE or name in {n.name for n in alone.nodes} for node in alone.nodes for name in node.inputs)


SCENE = Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("in", "out"))


@pytest.mark.parametrize(
    "tasks",
    [
        (TASKS[0], SCENE),
        pytest.param((SCENE, TASKS[0], TASKS[1]), marks=pytest.mark.slow),
        pytest.param((SCENE,), marks=pytest.mark.slow),
    ],
)
def test_classification_tasks_do_not_pay_for_the_tap(tasks: tuple[Task, ...]) -> None:
    kit = Kit(get_backbone("mobilenet_v2"), {task.name: task for task in tasks})
    space = open_space(Method.DYNAMIC, kit, {"flow": 1})
    assert space.topology.tap == (4 if any(task.dense for task in tasks) else None)
    table = with_operations(build_table(kit.backbone, tasks, SIZE), space, kit)
    out = space.topology.read_out
    alone = frozenset({(0, 6), (6, out)})  # goes past the tap, which is state 4
    tapped = frozenset({(0, 4), (4, out)})
    kept = [tapped if task.dense else alone for task in tasks]
    architecture = space.architecture(kept)
    nodes = {node.name: node for node in architecture.merged.nodes}
    assert nodes["heads.scene"].inputs == (nodes["heads.scene"].inputs[0],) * 2
    assert nodes["read_ins.06.shared"].tasks == ("scene",)
    for resource in COUNTED:
        low, high = space.reach(table, resource)
        cost = space.costs(table, resource)
        assert cost.total(kept) == architecture_costs(table, architecture)[resource]
        # No network is cheaper than the way of any one dense task, or than one path where there is none.
        ways = [
            frozenset({(0, s), (s, out)}) | ({(0, 4)} if with_tap else frozenset())
            for s in range(1, out)
            for with_tap in (False, True)
        ]
        fit = [way for way in ways if space.topology.connected(way)]
        least = min(
            cost.total([way if task.dense else space.topologies[t].alive(way) for t, task in enumerate(tasks)])
            for way in fit
        )
        assert low <= least <= high
    rng = np.random.default_rng(0)
    for kept_by_chance in (space.random_kept(rng) for _ in range(50)):
        for topology, arcs in zip(space.topologies, kept_by_chance, strict=True):
            assert topology.connected(arcs)
            assert topology.alive(arcs) == arcs
        assert all(
            low <= cost.total(kept_by_chance) <= high
            for low, high, cost in [(*space.reach(table, r), space.costs(table, r)) for r in COUNTED]
        )


@pytest.mark.slow
def test_network_of_a_dense_and_a_classification_task_computes() -> None:
    """At a size that the backbone rounds up, as the method does: it is not refused."""
    size = (66, 70)
    kit = Kit(get_backbone("mobilenet_v2"), {TASKS[0].name: TASKS[0], "scene": SCENE})
    space = open_space(Method.DYNAMIC, kit, {"flow": 1})
    table = with_operations(build_table(kit.backbone, list(kit.tasks.values()), size), space, kit)
    out = space.topology.read_out
    kept = [frozenset({(0, 4), (4, out)}), frozenset({(0, 6), (4, out), (0, 4), (6, out)})]
    architecture = space.architecture(kept)
    network = build_network(architecture, [TASKS[0], SCENE]).eval()
    count = count_network(network, size)
    assert architecture_costs(table, architecture) == {Resource.MADDS: count.madds, Resource.PARAMS: count.params}
    with torch.no_grad():
        found = network(torch.zeros(2, 3, *size))
    assert {name: tuple(x.shape) for name, x in found.items()} == {"normals": (2, 3, 66, 70), "scene": (2, 2)}


def at_size(backbone: str, size: tuple[int, int]) -> CostTable:
    kit = kit_of(backbone, 2)
    return with_operations(
        build_table(kit.backbone, TASKS[:2], size), open_space(Method.DYNAMIC, kit, {"flow": 1}), kit
    )


def test_sizes_that_the_backbone_rounds_down_are_refused() -> None:
    message = r"size 66x70: the network of --method dynamic on vgg16 would have .* multiply-adds, not .*multiples of 8,.*--size 64x72"
    with pytest.raises(UsageError, match=message):
        at_size("vgg16", (66, 70))


def test_sizes_at_which_shapes_do_not_meet_are_refused() -> None:
    message = r"size 33x35: the network of --method dynamic on tiny has feature maps that do not meet; give sides that are multiples of 4,.*--size 32x36"
    with pytest.raises(UsageError, match=message):
        at_size("tiny", (33, 35))
    assert at_size("tiny", (32, 36)).operations


# What follows goes through all parts of a small graph: 4 states with a tap, made-up costs.
SMALL = Topology((State(4, 1), State(4, 1), State(4, 1), State(4, 1)), flow=2, tap=2)


def made_up(seed: int, *, parameters: bool) -> ArcCosts:
    rng = np.random.default_rng([seed, parameters])
    return ArcCosts({arc: float(rng.integers(1, 30)) for arc in SMALL.arcs}, 100.0, parameters)


def all_parts() -> list[Kept]:
    arcs = SMALL.arcs
    subsets = itertools.chain.from_iterable(itertools.combinations(arcs, n) for n in range(len(arcs) + 1))
    return [frozenset(s) for s in subsets if _reaches(s)]


def _reaches(arcs: tuple[Arc, ...]) -> bool:
    return {SMALL.read_out, 2} <= _closure(0, frozenset(arcs), 0, 1)


@pytest.fixture(scope="module")
def parts() -> list[Kept]:
    return all_parts()


def test_connected_by_hand() -> None:
    assert SMALL.connected({(0, 2), (2, 5)})
    assert not SMALL.connected({(0, 1), (1, 5)})  # the tap is not reached
    assert not SMALL.connected({(0, 2), (1, 5)})
    dead = {(0, 2), (2, 5), (0, 1), (1, 3), (3, 4), (0, 4)}
    assert SMALL.alive(dead) == {(0, 2), (2, 5)}


@pytest.mark.parametrize("seed", range(8))
def test_cheapest_way_is_the_cheapest_of_all_networks(seed: int, parts: list[Kept]) -> None:
    for parameters in (False, True):
        costs = made_up(seed, parameters=parameters)
        least = min(costs.total([kept]) for kept in parts)
        way = cheapest_way(SMALL, [costs], [1.0])
        assert costs.total([way]) == least
        assert costs.total([way] * 3) == least  # tasks that agree compute it once


@pytest.mark.parametrize("seed", range(8))
def test_cheapest_way_under_two_limits(seed: int, parts: list[Kept]) -> None:
    both = [made_up(seed, parameters=False), made_up(seed, parameters=True)]
    limits = [120.0, 135.0]

    def ratio(kept: Kept) -> float:
        return max(c.total([kept]) / limit for c, limit in zip(both, limits, strict=True))

    assert ratio(cheapest_way(SMALL, both, limits)) == pytest.approx(min(map(ratio, parts)), rel=1e-12)


def test_reach_bounds_all_networks(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for resource in COUNTED:
        low, high = space.reach(table, resource)
        found = [space.costs(table, resource).total(kept) for kept in draws(space, 200)]
        assert low <= min(found)
        assert max(found) <= high
        assert high == architecture_costs(table, space.architecture(space.everything()))[resource]


def test_reach_of_tiny_by_hand(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    own = sum(table.operation_cost(f"heads.{t.name}", Resource.MADDS) for t in TASKS) + 3 * 1680 * 256
    # Cheapest: read into a state of 4 channels and out again, 3 * 4 + 4 * 4. Dearest: state 1 once, all else for each task.
    links = [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4), (2, 5), (3, 5), (4, 5), (3, 6), (4, 6), (5, 6)]
    width = dict.fromkeys(range(1, 5), 12) | dict.fromkeys(range(5, 7), 4)
    per_link = {(i, j): 9 * width[i] * width[j] for i, j in links}
    read_ins, read_outs = sum(3 * w for w in width.values()), {i: 4 * w for i, w in width.items()}
    once = 16 * 3 * 12 - 3 * 12 + read_ins + per_link[1, 2] + per_link[1, 3] + per_link[1, 4] + read_outs[1]
    each = sum(cost for (i, _), cost in per_link.items() if i > 1) + sum(cost for i, cost in read_outs.items() if i > 1)
    assert space.reach(table, Resource.MADDS) == (own + 256 * (12 + 16), own + 256 * (once + 3 * each))


def test_another_arc_never_makes_a_network_cheaper() -> None:
    rng = np.random.default_rng(1)
    costs: list[ArcCosts] = [made_up(0, parameters=False), made_up(0, parameters=True)]
    draw: Callable[[], Kept] = lambda: frozenset(a for a in SMALL.arcs if rng.random() < 0.4) | {(0, 2), (2, 5)}  # noqa: E731
    for _ in range(300):
        kept = [draw() for _ in range(3)]
        more = [kept[0] | {SMALL.arcs[rng.integers(len(SMALL.arcs))]}, *kept[1:]]
        for one in costs:
            assert one.total([SMALL.alive(k) for k in kept]) <= one.total([SMALL.alive(k) for k in more])

"""Flow-based reduction: flow by the enumeration of paths, what is kept, budgets, and the weights that fine-tuning begins with."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from bmtas.config import Method
from bmtas.errors import BudgetError, UsageError
from bmtas.methods.dynamic.derivation import Flow, Reduced, flows_of, reduce_within, start_network
from bmtas.methods.dynamic.losses import scalars_of
from bmtas.methods.dynamic.relaxation import CentralNetwork
from bmtas.methods.dynamic.space import TopologySpace, open_space
from bmtas.methods.dynamic.stages import snapshot
from bmtas.methods.dynamic.topology import Arc, Topology
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.networks.states import State
from bmtas.profile import build_table
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Budget, Resource, parse_budget
from tests.methods.exporting import computed_by_export

TASKS = (
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="parts", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
)
SIZE = (64, 64)
COUNTED = (Resource.MADDS, Resource.PARAMS)
WITH_TAP = Topology((State(4, 1),) * 4, flow=2, tap=2)


@pytest.fixture(scope="module")
def tiny() -> tuple[TopologySpace, CostTable]:
    kit = Kit(get_backbone("tiny"), {task.name: task for task in TASKS})
    space = open_space(Method.DYNAMIC, kit, {"flow": 3})
    return space, with_operations(build_table(kit.backbone, TASKS, SIZE), space, kit)


def drawn(topology: Topology, seed: int, tasks: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = 4.0 * torch.rand(1, generator=generator)
    return spread * torch.randn(tasks, len(topology.arcs), generator=generator)


def paths(topology: Topology, kept: set[Arc], end: int) -> list[tuple[Arc, ...]]:
    if end == 0:
        return [()]
    return [(*path, arc) for arc in kept if arc[1] == end for path in paths(topology, kept, arc[0])]


@pytest.mark.parametrize("seed", range(5))
def test_flow_is_the_weight_of_all_paths(seed: int) -> None:
    flow = flows_of([WITH_TAP], drawn(WITH_TAP, seed))[0]
    rng = np.random.default_rng(seed)
    for share in (1.0, 0.8, 0.5):
        kept = {arc for arc in WITH_TAP.arcs if rng.random() < share}
        every = [path for end in (2, 5) for path in paths(WITH_TAP, kept, end)]  # the tap and the read-out
        weight = {path: 0.5 * math.prod(flow.scalars[arc] for arc in path) for path in every}
        assert flow.total(kept) == pytest.approx(sum(weight.values()), abs=1e-12)
        for arc, found in flow.through(kept).items():
            assert found == pytest.approx(sum(w for path, w in weight.items() if arc in path), abs=1e-12)
            assert found == pytest.approx(flow.total(kept) - flow.total(kept - {arc}), abs=1e-12)


def test_what_flows_into_a_state_flows_out_or_is_read() -> None:
    flow = flows_of([WITH_TAP], drawn(WITH_TAP, 7))[0]
    through = flow.through(WITH_TAP.arcs)
    assert flow.total(WITH_TAP.arcs) == pytest.approx(1.0)
    for state, read in ((1, 0.0), (2, 0.5), (3, 0.0), (4, 0.0)):
        into = sum(value for (_, j), value in through.items() if j == state)
        out = sum(value for (i, _), value in through.items() if i == state)
        assert into == pytest.approx(out + read)
    assert sum(value for (i, _), value in through.items() if i == 0) == pytest.approx(1.0)


def test_a_chain_carries_all_of_its_flow_over_every_arc() -> None:
    chain = Topology((State(4, 1),) * 4, flow=1, tap=None)
    arcs = {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)}
    flow = Flow(chain, dict.fromkeys(arcs, 1.0))
    assert set(flow.through(arcs).values()) == {1.0}
    tapped = Flow(Topology(chain.states, 1, 2), dict.fromkeys(arcs, 1.0)).through(arcs)
    assert [tapped[arc] for arc in sorted(arcs)] == [1.0, 1.0, 0.5, 0.5, 0.5]


def reachable(reduced: Reduced, topologies: Sequence[Topology]) -> bool:
    """Say whether each kept arc lies on a path from the image to an output of its task, and the image reaches all of those."""
    for kept, topology in zip(reduced.kept, topologies, strict=True):
        used = [path for end in topology.outputs for path in paths(topology, set(kept), end)]
        ends = {path[-1][1] for path in used}
        if set(itertools.chain.from_iterable(used)) != kept or ends != set(topology.outputs):
            return False
    return True


def test_reduction_keeps_its_share_of_the_flow(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for seed, least in itertools.product(range(10), (0.5, 0.9)):
        reduced = reduce_within(space, drawn(space.topology, seed, 3), least, table, [])
        assert min(reduced.flows) >= least - 1e-6
        assert reachable(reduced, space.topologies)
        flows = flows_of(space.topologies, drawn(space.topology, seed, 3))
        for flow, kept in zip(flows, reduced.kept, strict=True):  # nothing more could go
            spare = [arc for arc, f in flow.through(kept).items() if flow.total(kept) - f >= least]
            assert not any(space.topology.connected(kept - {arc}) for arc in spare)


def test_all_and_nothing_of_the_flow(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    logits = drawn(space.topology, 1, 3)
    assert reduce_within(space, logits, 1.0, table, []).kept == space.everything()
    for kept in reduce_within(space, logits, 0.0, table, []).kept:
        assert len(paths(space.topology, set(kept), 7)) == 1
        assert len(kept) == len(paths(space.topology, set(kept), 7)[0])


def budgets_of(space: TopologySpace, table: CostTable, shares: dict[Resource, float]) -> list[Budget]:
    found = []
    for resource, share in shares.items():
        low, high = space.reach(table, resource)
        found.append(Budget(resource, low + share * (high - low), f"{share:.0%}"))
    return found


def test_no_budget_within_reach_is_exceeded(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for seed in range(40):
        resource = COUNTED[seed % 2]
        for share in (0.0, 0.01, 0.1, 0.4, 0.9):
            budgets = budgets_of(space, table, {resource: share})
            reduced = reduce_within(space, drawn(space.topology, seed, 3), 0.9, table, budgets)
            assert architecture_costs(table, space.architecture(reduced.kept))[resource] <= budgets[0].value
            assert reachable(reduced, space.topologies)
            flows = flows_of(space.topologies, drawn(space.topology, seed, 3))
            told = [flow.total(kept) for flow, kept in zip(flows, reduced.kept, strict=True)]
            assert list(reduced.flows) == pytest.approx(told)


def test_two_budgets_at_once(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for seed, share in itertools.product(range(10), (0.02, 0.3, 0.7)):
        budgets = budgets_of(space, table, {Resource.MADDS: share, Resource.PARAMS: 0.8 - share})
        reduced = reduce_within(space, drawn(space.topology, seed, 3), 0.9, table, budgets)
        costs = architecture_costs(table, space.architecture(reduced.kept))
        assert all(costs[b.resource] <= b.value for b in budgets)


def test_more_budget_never_buys_less(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for seed in range(6):
        found = []
        for share in np.linspace(0.0, 1.0, 12):
            budgets = budgets_of(space, table, {Resource.MADDS: float(share)})
            reduced = reduce_within(space, drawn(space.topology, seed, 3), 0.9, table, budgets)
            found.append(architecture_costs(table, space.architecture(reduced.kept))[Resource.MADDS])
        assert found == sorted(found)


def test_a_budget_below_reach_is_refused(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    low, _ = space.reach(table, Resource.MADDS)
    with pytest.raises(BudgetError, match=r"budget little: dynamic reaches from .* MMAdds"):
        reduce_within(space, drawn(space.topology, 0, 3), 0.9, table, [Budget(Resource.MADDS, low - 1, "little")])


def test_the_floor_of_a_refusal_can_be_asked_for(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    for resource in COUNTED:
        low, _ = space.reach(table, resource)
        with pytest.raises(BudgetError) as refused:
            space.check(table, [Budget(resource, low - 1, "little")])
        told = re.search(r"from ([\d.]+) (\w+)", str(refused.value))
        assert told is not None
        space.check(table, [parse_budget(told[1] + told[2])])
    space.check(table, [])


@pytest.mark.slow
def test_budgets_that_cannot_be_kept_together_are_refused_before_a_search() -> None:
    """MobileNetV2's way of fewest multiply-adds has more parameters than another one, and the other way round."""
    space, table = mixed("mobilenet_v2")
    both = [Budget(r, space.reach(table, r)[0], f"least {r}") for r in COUNTED]
    for budget in both:
        space.check(table, [budget])
    with pytest.raises(BudgetError, match=r"together with least params.*nearest to all budgets is one with") as refused:
        space.check(table, both)
    near = re.search(r"one with ([\d.]+) (\w+) and ([\d.]+) (\w+)", str(refused.value))
    assert near is not None
    space.check(table, [parse_budget(near[1] + near[2]), parse_budget(near[3] + near[4])])


@functools.cache
def mixed(backbone: str) -> tuple[TopologySpace, CostTable]:
    """Return the space of a classification task between two dense ones."""
    tasks = (TASKS[0], Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("in", "out")), TASKS[1])
    kit = Kit(get_backbone(backbone), {task.name: task for task in tasks})
    space = open_space(Method.DYNAMIC, kit, {"flow": 1})
    return space, with_operations(build_table(kit.backbone, tasks, SIZE), space, kit)


def test_the_flow_of_a_classification_task_goes_to_the_read_out_alone() -> None:
    space, table = mixed("mobilenet_v2")
    topology = space.topology
    logits = drawn(topology, 3, 3)
    flow = flows_of(space.topologies, logits)[1]
    rng = np.random.default_rng(0)
    for share in (1.0, 0.8):
        kept = {arc for arc in topology.arcs if rng.random() < share}
        reaching = dict.fromkeys(range(topology.read_out + 1), 0.0) | {0: 1.0}
        for i, j in sorted(kept, key=lambda arc: arc[1]):
            reaching[j] += reaching[i] * flow.scalars[i, j]
        assert flow.total(kept) == pytest.approx(reaching[topology.read_out], abs=1e-12)
    way = reduce_within(space, logits, 0.0, table, []).kept[1]
    ends = [j for _, j in way]
    assert len(ends) == len(set(ends))  # one path, and nothing that leads to the tap alone
    assert {j for _, j in way} - {i for i, _ in way} == {topology.read_out}


def test_budgets_of_dense_and_classification_tasks_are_kept() -> None:
    space, table = mixed("mobilenet_v2")
    for seed, share in itertools.product(range(2), (0.0, 0.01, 0.1)):
        resource = COUNTED[seed % 2]
        budgets = budgets_of(space, table, {resource: share})
        reduced = reduce_within(space, drawn(space.topology, seed, 3), 0.7, table, budgets)
        assert architecture_costs(table, space.architecture(reduced.kept))[resource] <= budgets[0].value
        for kept, topology in zip(reduced.kept, space.topologies, strict=True):
            assert topology.connected(kept)
            assert topology.alive(kept) == kept


def test_weights_of_another_network_are_refused(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, _ = tiny
    rewound = snapshot(central(space))
    del rewound["links.01.02.shared.conv.0.weight"]
    with pytest.raises(UsageError, match=r"no links\.01\.02\.shared\.conv\.0\.weight \(1 of"):
        start_network(
            space, TASKS, Reduced(space.everything(), (1.0,) * 3, (False,) * 3), drawn(space.topology, 0, 3), rewound
        )


def central(space: TopologySpace) -> CentralNetwork:
    torch.manual_seed(0)
    network = CentralNetwork(space, TASKS, None).train()
    scalars = torch.full((3, len(space.topology.arcs)), 0.3)
    with torch.no_grad():
        network.predict(
            torch.randn(4, 3, *SIZE), scalars, space.tasks
        )  # so that statistics are not those of the beginning
    return network.eval()


def test_start_with_all_arcs_computes_what_the_search_computed(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, _ = tiny
    logits, network = drawn(space.topology, 2, 3), central(space)
    reduced = Reduced(space.everything(), (1.0,) * 3, (False,) * 3)
    start = start_network(space, TASKS, reduced, logits, snapshot(network)).eval()
    image = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected, found = network.predict(image, scalars_of(space.topology, logits), space.tasks), start(image)
    for task in space.tasks:
        torch.testing.assert_close(found[task], expected[task], rtol=1e-4, atol=1e-5)


def test_start_of_a_reduced_network(tiny: tuple[TopologySpace, CostTable]) -> None:
    """It computes what the search computes whose scalars are zero where arcs are gone, and sum to 1 again where they are not."""
    space, table = tiny
    logits, network = drawn(space.topology, 3, 3), central(space)
    reduced = reduce_within(space, logits, 0.7, table, [])
    start = start_network(space, TASKS, reduced, logits, snapshot(network)).eval()
    gone = torch.tensor([[arc not in kept for arc in space.topology.arcs] for kept in reduced.kept])
    assert gone.any()
    scalars = scalars_of(space.topology, logits.double()).masked_fill(gone, 0.0)
    for into in space.topology.into[1:]:
        total = scalars[:, list(into)].sum(dim=1, keepdim=True)
        scalars[:, list(into)] = torch.where(total > 0, scalars[:, list(into)] / total, 0.0)
    image = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected, found = network.predict(image, scalars.float(), space.tasks), start(image)
    for task in space.tasks:
        torch.testing.assert_close(found[task], expected[task], rtol=1e-4, atol=1e-5)


def test_networks_export_at_a_size_that_no_stride_divides() -> None:
    backbone = get_backbone("mobilenet_v2")
    space = open_space(Method.DYNAMIC, Kit(backbone, {t.name: t for t in TASKS[:2]}), {"flow": 3})
    topology = space.topology
    kept = topology.alive({(0, 4), (2, 4), (0, 1), (1, 2), (4, 7), (7, 9), (9, 19), (4, 19)})
    torch.manual_seed(0)
    network = build_network(space.architecture((kept, kept - {(4, 19)})), TASKS[:2]).eval()
    image = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        expected = network(image)
    found = computed_by_export(network, image)
    for task in space.tasks:
        np.testing.assert_allclose(found[task], expected[task].numpy(), rtol=1e-3, atol=1e-4)

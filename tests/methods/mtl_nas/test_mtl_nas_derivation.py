"""From probabilities to the network of MTL-NAS: what is kept, within budgets, with which weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from bmtas.errors import BudgetError
from bmtas.methods.mtl_nas.derivation import Kept, discretise, keep_within, trained_network
from bmtas.methods.mtl_nas.finder import details_of
from bmtas.methods.mtl_nas.relaxation import Supernet
from bmtas.methods.mtl_nas.settings import Gates
from bmtas.methods.mtl_nas.space import FusionSpace
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.fusions import Fusion
from bmtas.networks.operations import Kit
from bmtas.profile import build_table
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Budget, Resource

TASKS = (
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("a", "b")),
)
SPACE = FusionSpace(get_backbone("tiny"), tuple(task.name for task in TASKS))
WIDE, NARROW = 144 * 256, 16 * 256
"""Multiply-adds of an edge into a node of 12 and of 4 channels, at 16x16 places."""


@pytest.fixture(scope="module")
def table() -> CostTable:
    kit = Kit(SPACE.backbone, {task.name: task for task in TASKS})
    return with_operations(build_table(SPACE.backbone, TASKS, (64, 64)), SPACE, kit)


def madds(value: float) -> Budget:
    return Budget(Resource.MADDS, value, f"{value:g}MAdds")


def supernet(space: FusionSpace = SPACE, tasks: tuple[Task, ...] = TASKS) -> Supernet:
    """Return a supernet whose fusions and statistics are no longer those of the beginning."""
    torch.manual_seed(0)
    network = Supernet(space, tasks, None, 0.5)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean = 0.1 * torch.randn(part.num_features)
                part.running_var = 0.5 + torch.rand(part.num_features)
                part.weight.uniform_(0.5, 1.5)
            if isinstance(part, Fusion):
                part.conv.weight.add_(0.2 * torch.randn_like(part.conv.weight))
    return network.eval()


def test_deterministic_keeps_what_is_above_one_half() -> None:
    p = torch.tensor([0.5, 0.5000001, 0.1, 0.9], dtype=torch.float64)
    assert discretise(p, Gates.DETERMINISTIC, 0) == [False, True, False, True]


def test_stochastic_keeps_with_the_probability() -> None:
    p = torch.full((4000,), 0.3, dtype=torch.float64)
    kept = discretise(p, Gates.STOCHASTIC, 7)
    assert sum(kept) == pytest.approx(1200, abs=4 * (4000 * 0.3 * 0.7) ** 0.5)
    assert kept == discretise(p, Gates.STOCHASTIC, 7)
    assert kept != discretise(p, Gates.STOCHASTIC, 8)
    assert discretise(torch.tensor([0.0, 1.0], dtype=torch.float64), Gates.STOCHASTIC, 0) == [False, True]


def test_never_over_a_budget_within_reach(table: CostTable) -> None:
    rng = np.random.default_rng(0)
    dropped = 0
    for _ in range(150):
        p = torch.from_numpy(rng.beta(0.5, 0.5, size=len(SPACE.edges)))
        budgets = []
        for resource in (Resource.MADDS, Resource.PARAMS)[: rng.integers(1, 3)]:
            low, high = SPACE.reach(table, resource)
            budgets.append(Budget(resource, float(np.floor(low + rng.random() * (high - low))), "b"))
        wanted = discretise(p, Gates.DETERMINISTIC, 0)
        kept = keep_within(SPACE, p, wanted, table, budgets)
        costs = architecture_costs(table, SPACE.architecture(kept.edges))
        assert all(costs[b.resource] <= b.value for b in budgets)
        assert all(want or not keep for keep, want in zip(kept.edges, wanted, strict=True))
        assert list(kept.wanted) == wanted
        gone = [e for e, (k, w) in enumerate(zip(kept.edges, wanted, strict=True)) if w and not k]
        dropped += len(gone)
        for edge in gone:  # nothing that would fit was left out
            more = architecture_costs(table, SPACE.architecture([k or e == edge for e, k in enumerate(kept.edges)]))
            assert any(more[b.resource] > b.value for b in budgets)
    assert dropped > 500


def test_a_wide_budget_changes_nothing(table: CostTable) -> None:
    p = torch.from_numpy(np.random.default_rng(1).random(len(SPACE.edges)))
    wanted = discretise(p, Gates.DETERMINISTIC, 0)
    high = SPACE.reach(table, Resource.MADDS)[1]
    assert list(keep_within(SPACE, p, wanted, table, [madds(high)]).edges) == wanted
    assert list(keep_within(SPACE, p, wanted, table, []).edges) == wanted


def test_the_edge_of_least_probability_per_cost_goes_first(table: CostTable) -> None:
    wide = [e for e, edge in enumerate(SPACE.edges) if edge.node == "layers.01"]
    narrow = [e for e, edge in enumerate(SPACE.edges) if edge.node == "layers.04"]
    p = torch.full((len(SPACE.edges),), 0.1, dtype=torch.float64)
    p[wide[0]], p[wide[1]], p[narrow[0]] = 0.95, 0.9, 0.6
    wanted = discretise(p, Gates.DETERMINISTIC, 0)
    floor = SPACE.reach(table, Resource.MADDS)[0]

    def kept(budget: float) -> list[int]:
        found = keep_within(SPACE, p, wanted, table, [madds(floor + budget)])
        return [e for e, keep in enumerate(found.edges) if keep]

    assert kept(2 * WIDE + NARROW) == sorted([wide[0], wide[1], narrow[0]])
    # 0.9 for nine times the cost is less worth than 0.6.
    assert kept(2 * WIDE + NARROW - 1) == sorted([wide[0], narrow[0]])
    assert kept(WIDE + NARROW - 1) == [narrow[0]]
    assert kept(NARROW - 1) == []


def test_an_edge_that_fits_after_all_comes_back(table: CostTable) -> None:
    wide = next(e for e, edge in enumerate(SPACE.edges) if edge.node == "layers.01")
    narrow = next(e for e, edge in enumerate(SPACE.edges) if edge.node == "layers.04")
    p = torch.zeros(len(SPACE.edges), dtype=torch.float64)
    # The narrow edge is the less worth of the two, goes first, and does not help; then the wide one goes.
    p[wide], p[narrow] = 0.999, 0.999 / 9 - 0.01
    wanted = [e in (wide, narrow) for e in range(len(SPACE.edges))]
    floor = SPACE.reach(table, Resource.MADDS)[0]
    found = keep_within(SPACE, p, wanted, table, [madds(floor + WIDE - 1)])
    assert [e for e, keep in enumerate(found.edges) if keep] == [narrow]


def test_below_the_floor_is_refused(table: CostTable) -> None:
    floor = SPACE.reach(table, Resource.MADDS)[0]
    p = torch.full((len(SPACE.edges),), 0.9, dtype=torch.float64)
    assert sum(keep_within(SPACE, p, [True] * len(p), table, [madds(floor)]).edges) == 0
    with pytest.raises(BudgetError, match="keeps a whole backbone for each of 3 tasks; reachable is"):
        keep_within(SPACE, p, [True] * len(p), table, [madds(floor - 1)])


def test_the_network_computes_what_the_supernet_does_with_gates_of_0_and_1() -> None:
    network, rng = supernet(), np.random.default_rng(2)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for share in (0.0, 0.3, 0.6, 1.0):
        kept = (rng.random(len(SPACE.edges)) < share).tolist()
        cut = trained_network(network, TASKS, kept)
        with torch.no_grad():
            whole, found = network(image, torch.tensor(kept, dtype=torch.float32)), cut(image)
        for task in SPACE.tasks:
            torch.testing.assert_close(found[task], whole[task], rtol=1e-4, atol=1e-5)
        assert cut.graph == SPACE.architecture(kept).merged


def test_pruned_inputs_are_cut_out() -> None:
    tasks = TASKS[:2]
    space = FusionSpace(get_backbone("mobilenet_v2"), ("normals", "depth"))
    network = supernet(space, tasks)
    kept = [edge.source_node == edge.node for edge in space.edges]  # NDDR-CNN's edges, in every layer
    cut = trained_network(network, tasks, kept)
    source = network.fusion("depth", "layers.09").conv.weight  # layers 7 and 8, then layer 9
    target = cut.get_submodule("fusions.layers.09.2.depth").conv.weight
    assert source.shape[:2] == (64, 256)
    assert torch.equal(target, torch.cat([source[:, :64], source[:, 192:]], dim=1))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        whole, found = network(image, torch.tensor(kept, dtype=torch.float32)), cut(image)
    for task in space.tasks:
        torch.testing.assert_close(found[task], whole[task], rtol=1e-4, atol=1e-5)


def test_details_are_plain_json() -> None:
    logits = torch.zeros(len(SPACE.edges), dtype=torch.float64)
    logits[0] = np.log(3)
    kept = Kept((True, *(False,) * (len(logits) - 1)), (True, True, *(False,) * (len(logits) - 2)))
    details = json.loads(json.dumps(details_of(SPACE, logits, kept)))
    first, second = details["edges"][:2]
    assert first == {
        "task": "normals",
        "node": "stem",
        "source_task": "depth",
        "source_node": "stem",
        "probability": pytest.approx(0.75),
        "kept": True,
        "dropped": False,
    }
    assert (second["kept"], second["dropped"]) == (False, True)
    quarter = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    count = len(logits)
    assert details["entropy"] == pytest.approx(((count - 1) * np.log(2) + quarter) / count)

"""The space of AutoMTL: graphs by hand, exact costs against fvcore and enumeration, and the reach of budgets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bmtas.architecture import Architecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.methods.automtl.prices import OWN, SHARED, SKIP
from bmtas.methods.automtl.reach import cheapest_choices
from bmtas.methods.automtl.space import ConvolutionSpace, open_space
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.profile import build_table
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

if TYPE_CHECKING:
    from tests.methods.automtl.conftest import Small

BOTH = (Resource.MADDS, Resource.PARAMS)


def tasks_of(count: int) -> tuple[Task, ...]:
    return tuple(Task(name=f"t{i}", kind=TaskKind.DEPTH) for i in range(count))


def space_of(backbone: str, count: int, shared: int = 0) -> ConvolutionSpace:
    return ConvolutionSpace(Kit(get_backbone(backbone), {task.name: task for task in tasks_of(count)}), shared)


def table_of(space: ConvolutionSpace, size: int = 64) -> CostTable:
    return with_operations(
        build_table(space.kit.backbone, tuple(space.kit.tasks.values()), (size, size)), space, space.kit
    )


def modules(architecture: Architecture) -> set[str]:
    return set(architecture.graph(0).modules())


def test_all_shared_is_one_network_with_heads() -> None:
    space = space_of("tiny", 3)
    graph = space.architecture(np.full((3, 13), SHARED)).merged
    assert len(graph.nodes) == 37 + 3
    encoder = [node for node in graph.nodes if not node.operation.startswith("heads.")]
    assert all(node.tasks == ("t0", "t1", "t2") for node in encoder)
    assert {node.weights for node in encoder} == {"t0+t1+t2", ""}


def test_normalisations_are_shared_by_those_whose_prefix_is_the_same() -> None:
    space = space_of("tiny", 3)
    choices = np.full((3, 13), SHARED)
    choices[2, 0] = OWN  # the stem of t2 is its own
    found = modules(space.architecture(choices))
    assert {"convs.000.t0+t1+t2", "convs.000.t2", "norms.001.t0+t1", "norms.001.t2"} <= found
    # Later convolutions are the shared ones again, on other values, with normalisations of their own.
    assert {"convs.002.t0+t1+t2", "norms.003.t0+t1", "norms.003.t2"} <= found
    assert "convs.002.t2" not in found
    applied = [n.tasks for n in space.architecture(choices).merged.nodes if n.operation == "convs.002"]
    assert applied == [("t0", "t1"), ("t2",)]


def test_skipping_is_nothing_where_shapes_stay() -> None:
    # Every convolution of tiny goes from one number of channels to another; of MobileNetV2, the depthwise ones of stride 1 do not, 13 of
    # 17, nor the one that would halve the resolution a fifth time and does not here. R-ASPP has none.
    assert not space_of("tiny", 2).identity.any()
    assert space_of("mobilenet_v2", 2).identity.sum() == 13 + 1


def test_a_skipped_residual_branch_is_the_sum_of_its_input_with_itself(small: Small) -> None:
    assert small.space.identity.tolist() == [False, True, False, True]
    choices = np.array([[SHARED, SKIP, SHARED, SHARED], [SHARED, SKIP, SHARED, SHARED]])
    graph = small.space.architecture(choices).merged
    total = next(node for node in graph.nodes if node.operation == "glue.004")
    assert total.inputs == ("glue.002", "glue.002")
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    module = small.space.kit.build("glue.004")
    assert torch.equal(module(image, image), 2 * image)


def test_a_free_normalisation_belongs_to_a_prefix(small: Small) -> None:
    shared, skips = [SHARED] * 4, [SHARED, SKIP, SHARED, SHARED]
    norm = "norms.005"  # behind the sum
    assert f"{norm}.depth+normals" in modules(small.space.architecture(np.array([skips, skips])))
    apart = modules(small.space.architecture(np.array([shared, skips])))
    assert {f"{norm}.depth", f"{norm}.normals"} <= apart


def test_costs_without_graphs_are_those_of_all_graphs(small: Small) -> None:
    for resource in BOTH:
        prices = small.space.prices(small.table, resource)
        np.testing.assert_array_equal(prices.of(small.policies, small.space.wiring), small.costs[resource])


def test_costs_of_many_tasks_against_graphs() -> None:
    space = space_of("tiny", 6)
    table, rng = table_of(space), np.random.default_rng(5)
    together = rng.integers(0, 3, (40, 1, 13))
    policies = np.where(rng.random((40, 6, 13)) < 0.15, rng.integers(0, 3, (40, 6, 13)), together)
    for resource in BOTH:
        found = space.prices(table, resource).of(policies, space.wiring)
        expected = [architecture_costs(table, space.architecture(p))[resource] for p in policies]
        np.testing.assert_array_equal(found, expected)


def test_one_task_has_nothing_to_share_and_may_skip() -> None:
    space = space_of("tiny", 1)
    table, rng = table_of(space), np.random.default_rng(6)
    policies = rng.integers(0, 3, (20, 1, 13))
    for resource in BOTH:
        found = space.prices(table, resource).of(policies, space.wiring)
        expected = [architecture_costs(table, space.architecture(p))[resource] for p in policies]
        np.testing.assert_array_equal(found, expected)
        low, high = space.reach(table, resource)
        assert low <= min(expected) < max(expected) <= high


@pytest.mark.parametrize("resource", BOTH)
def test_reach_is_that_of_all_networks(small: Small, resource: Resource) -> None:
    found = small.space.reach(small.table, resource)
    assert found == (small.costs[resource].min(), small.costs[resource].max())


@pytest.mark.parametrize("shared", range(5))
@pytest.mark.parametrize("resource", BOTH)
def test_reach_with_shared_convolutions(small: Small, resource: Resource, shared: int) -> None:
    space = ConvolutionSpace(small.space.kit, shared)
    inside = (small.policies[:, :, :shared] == SHARED).all(axis=(1, 2))
    costs = small.costs[resource][inside]
    assert space.reach(small.table, resource) == (costs.min(), costs.max())


def test_the_cheapest_network_parts_where_that_gains() -> None:
    """Against all networks in which the tasks agree, for made-up prices: enough, as no cheapest network needs more."""
    space = space_of("tiny", 3)
    table = table_of(space)
    rng = np.random.default_rng(0)
    both = [space.prices(table, r) for r in BOTH]
    rows = np.array(list(itertools.product((SHARED, SKIP), repeat=13)))
    policies = np.repeat(rows[:, None], 3, axis=1)
    costs = [p.of(policies, space.wiring) for p in both]
    for share in rng.random(20):
        weights = [share / 1e6, (1 - share) / 1e4]
        row = cheapest_choices(both, weights, space.wiring, 3)
        found = sum(w * p.of(np.tile(row, (1, 3, 1)), space.wiring)[0] for w, p in zip(weights, both, strict=True))
        assert found == pytest.approx(min(weights[0] * costs[0] + weights[1] * costs[1]), rel=1e-12)


def test_forced_convolutions_are_shared() -> None:
    space = space_of("tiny", 2, shared=4)
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = modules(space.random(rng))
        assert {"convs.000.t0+t1", "convs.002.t0+t1", "convs.005.t0+t1", "convs.008.t0+t1"} <= found
        assert not any(name.startswith("skips.000") for name in found)
    with pytest.raises(UsageError, match="13 convolutions"):
        space_of("tiny", 2, shared=14)


def test_the_space_is_opened_by_name_and_covers_its_operations() -> None:
    kit = space_of("tiny", 2).kit
    space = open_space(Method.AUTOMTL, kit, {"shared": 3, "policies": 5})
    assert space.shared == 3
    operations: set[str] = set()
    for architecture in space_of("tiny", 2).cover():
        operations |= set(architecture.merged.modules().values())
    rng: npt.NDArray[np.int64] = np.arange(20)
    for seed in rng:
        drawn = space_of("tiny", 2).random(np.random.default_rng(int(seed)))
        assert set(drawn.merged.modules().values()) <= operations
        assert Architecture.from_json(drawn.to_json()) == drawn

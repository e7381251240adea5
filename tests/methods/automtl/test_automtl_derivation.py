"""From policies to networks: within every budget that can be kept, the best of those sampled, and repaired where none fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bmtas.errors import BudgetError
from bmtas.methods.automtl.derivation import Derived, derive_policy, log_probability, sample_policies, task_correlation
from bmtas.methods.automtl.prices import OWN, SHARED, SKIP, Floats
from bmtas.methods.automtl.repair import Limits, repaired
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.profile import build_table
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Budget, Resource

if TYPE_CHECKING:
    from tests.methods.automtl.conftest import Small

BOTH = (Resource.MADDS, Resource.PARAMS)
TASKS = tuple(Task(name=name, kind=TaskKind.DEPTH) for name in ("a", "b", "c"))


@pytest.fixture(scope="module")
def space() -> ConvolutionSpace:
    return ConvolutionSpace(Kit(get_backbone("tiny"), {task.name: task for task in TASKS}))


@pytest.fixture(scope="module")
def table(space: ConvolutionSpace) -> CostTable:
    return with_operations(build_table(space.kit.backbone, TASKS, (32, 32)), space, space.kit)


def budget(value: float, resource: Resource) -> Budget:
    return Budget(resource, value, f"{value}{resource.value}")


def drawn(rng: np.random.Generator, tasks: int, convs: int) -> Floats:
    logits = rng.normal(size=(tasks, convs, 3)) * rng.choice([0.3, 1.0, 5.0, 40.0])
    logits[..., rng.integers(3)] += rng.choice([0.0, 3.0, 30.0])  # some want all shared, some all own, some all skipped
    unit = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = unit / unit.sum(axis=-1, keepdims=True)
    return result


def derive(
    space: ConvolutionSpace, p: Floats, table: CostTable, budgets: Sequence[Budget], count: int, seed: int
) -> Derived:
    return derive_policy(space, p, table, budgets, sample_policies(p, count, seed), [0.0] * count)


@pytest.mark.parametrize("resource", BOTH)
def test_no_budget_within_reach_is_exceeded(space: ConvolutionSpace, table: CostTable, resource: Resource) -> None:
    rng = np.random.default_rng(11)
    low, high = space.reach(table, resource)
    repairs = 0
    for trial in range(40):
        share = [0.0, rng.random() ** 3, rng.random(), 1.0][trial % 4]
        limit = budget(low + share * (high - low), resource)
        derived = derive(space, drawn(rng, 3, 13), table, [limit], 3, trial)
        architecture = space.architecture(derived.taken.choices)
        assert architecture_costs(table, architecture)[resource] <= limit.value
        assert derived.taken.costs[resource.value] == architecture_costs(table, architecture)[resource]
        repairs += derived.repaired
    assert 10 <= repairs < 40


def test_two_budgets_are_kept_together(space: ConvolutionSpace, table: CostTable) -> None:
    rng = np.random.default_rng(12)
    for trial in range(12):
        known = architecture_costs(table, space.random(rng))
        limits = [budget(known[r] * 1.2, r) for r in BOTH]
        derived = derive(space, drawn(rng, 3, 13), table, limits, 2, trial)
        found = architecture_costs(table, space.architecture(derived.taken.choices))
        assert all(found[b.resource] <= b.value for b in limits)


def test_two_budgets_that_no_network_keeps(space: ConvolutionSpace, table: CostTable) -> None:
    limits = [budget(space.reach(table, r)[0] - 1, r) for r in BOTH]
    with pytest.raises(BudgetError, match="the least cost of each alone is"):
        derive(space, drawn(np.random.default_rng(0), 3, 13), table, limits, 2, 0)


def test_the_sample_of_least_loss_within_the_budget_is_taken(small: Small) -> None:
    p = np.full((2, 4, 3), 1 / 3)
    limit = budget(float(np.median(small.costs[Resource.MADDS])), Resource.MADDS)
    sampled = sample_policies(p, 12, 4)
    losses = [float((policy == OWN).sum()) for policy in sampled]
    derived = derive_policy(small.space, p, small.table, [limit], sampled, losses)
    fitting = [
        policy
        for policy in sampled
        if architecture_costs(small.table, small.space.architecture(policy))[Resource.MADDS] <= limit.value
    ]
    assert 0 < len(fitting) < 12
    assert not derived.repaired
    assert derived.taken.loss == min((policy == OWN).sum() for policy in fitting)
    assert derived.taken.log_probability == pytest.approx(8 * math.log(1 / 3))


def test_samples_come_as_often_as_they_are_probable() -> None:
    p = np.array([[[0.7, 0.1, 0.2], [0.0, 1.0, 0.0]]])
    found = np.stack(sample_policies(p, 20000, 0))
    assert (found[:, 0, 1] == OWN).all()
    share = np.bincount(found[:, 0, 0], minlength=3) / 20000
    np.testing.assert_allclose(share, [0.7, 0.1, 0.2], atol=0.015)
    again = np.stack(sample_policies(p, 20000, 0))
    assert (found == again).all()
    assert log_probability(p, found[0]) == pytest.approx(math.log(p[0, 0, found[0, 0, 0]]))
    assert log_probability(p, np.array([[SHARED, SHARED]])) == -math.inf


def test_a_repair_gives_up_little(small: Small) -> None:
    """Against the most probable network of all that are within: on average nearly as probable, and never without need."""
    rng = np.random.default_rng(2)
    costs = small.costs[Resource.MADDS]
    gaps = []
    for _ in range(30):
        p = drawn(rng, 2, 4)
        limit = budget(float(np.quantile(costs, rng.random())), Resource.MADDS)
        limits = Limits.of(small.space, small.table, [limit])
        found = repaired(limits, p)
        logs = np.log(np.maximum(p, 1e-300))
        scores = np.take_along_axis(logs[None], small.policies[..., None], axis=-1).sum(axis=(1, 2, 3))
        best = scores[costs <= limit.value].max()
        own = float(np.take_along_axis(logs, found[..., None], axis=-1).sum())
        assert own <= best + 1e-9
        gaps.append(best - own)
        if costs[scores.argmax()] <= limit.value:
            assert own == pytest.approx(best)
    assert np.median(gaps) < 0.5


def test_forced_convolutions_stay_shared(space: ConvolutionSpace, table: CostTable) -> None:
    held = ConvolutionSpace(space.kit, 5)
    rng = np.random.default_rng(3)
    low, high = held.reach(table, Resource.MADDS)
    for share in (0.0, 0.1, 0.5):
        p = drawn(rng, 3, 13)
        p[:, :5] = [1.0, 0.0, 0.0]
        limit = budget(low + share * (high - low), Resource.MADDS)
        derived = derive(held, p, table, [limit], 4, 0)
        assert (derived.taken.choices[:, :5] == SHARED).all()
        found = architecture_costs(table, held.architecture(derived.taken.choices))
        assert found[Resource.MADDS] <= limit.value


def test_correlation_of_policies_by_hand() -> None:
    p = np.array([[[1.0, 0.0, 0.0]], [[0.0, 0.6, 0.4]], [[0.5, 0.5, 0.0]]])
    found = task_correlation(p)
    np.testing.assert_allclose(np.diag(found), 1.0)
    assert found[0, 1] == 0.0
    assert found[0, 2] == pytest.approx(math.sqrt(0.5))
    assert found[1, 2] == pytest.approx(0.3 / (math.sqrt(0.52) * math.sqrt(0.5)))
    assert SKIP == 2

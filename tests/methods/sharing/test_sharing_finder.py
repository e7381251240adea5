"""The way to networks that share by a fixed rule: what they begin from, and what budgets they are refused for."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from bmtas.config import Method
from bmtas.data.planted import TASKS
from bmtas.errors import BudgetError, UsageError
from bmtas.methods.sharing.finder import build
from bmtas.methods.sharing.space import NETWORKS, open_space
from bmtas.methods.space import with_operations
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.runs import SEPARATE, Run, create_run
from bmtas.tables import architecture_costs
from bmtas.training import load_network
from costs.units import Resource, parse_budget
from tests.methods.sharing.few_tasks import kit_of

HOW = How.alone("cpu")


@functools.cache
def plain_plan() -> Plan:
    overrides = {"steps": 2, "batch_size": 4}
    return plan_search(Request(data="planted", backbone="tiny", method=Method.SINGLE, train_overrides=overrides))


@functools.cache
def plan_of(method: Method, **own: Any) -> Plan:
    """Return a plan with the table of the method's operations, and without budgets."""
    plain = plain_plan()
    kit = kit_of("tiny", TASKS)
    table = with_operations(plain.table, open_space(method, kit, {}), kit)
    return dataclasses.replace(
        plain, table=table, config=plain.config.model_copy(update={"method": method, "own": own})
    )


def run_of(plan: Plan, root: Path) -> Run:
    return create_run(root, "sharing", plan.config, plan.table)


def assert_begins_with(network: GraphNetwork, other: GraphNetwork) -> None:
    state, own = network.state_dict(), other.state_dict()
    assert own
    assert all(torch.equal(state[key], own[key]) for key in own)


@pytest.mark.parametrize("method", [m for m in NETWORKS if m is not Method.MTAN])
def test_networks_with_an_encoder_per_task_begin_from_trained_separate_ones(method: Method, tmp_path: Path) -> None:
    plan = plan_of(method)
    run, finder = run_of(plan, tmp_path), build(plan, HOW)
    finder.prepare(begun=False)
    finder.learn(run, Silent())
    found = finder.derive(plan.table)
    separate = load_network(plan.config, run.architecture(SEPARATE), run.network(SEPARATE) / "weights.pt")
    assert found.start is not None
    assert found.trained is None
    assert found.details == {"init": "separate"}
    assert found.architecture.method == method.value
    assert_begins_with(found.start, separate)


def test_encoders_begin_from_the_backbone_where_that_is_asked_for(tmp_path: Path) -> None:
    plan = plan_of(Method.CROSS_STITCH, init="backbone")
    run, finder = run_of(plan, tmp_path), build(plan, HOW)
    finder.prepare(begun=False)
    finder.learn(run, Silent())
    found = finder.derive(plan.table)
    assert not run.network(SEPARATE).exists()
    assert found.start is not None
    torch.manual_seed(plan.config.seed)
    fresh = build_network(found.architecture, TASKS)
    encoders = {k: v for k, v in fresh.state_dict().items() if not k.startswith("sums")}
    state = found.start.state_dict()
    assert all(torch.equal(state[key], value) for key, value in encoders.items())
    assert state["sums.4.layers.02.a1.weights"].tolist() == pytest.approx([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3])


def test_mtan_needs_nothing_before_its_training(tmp_path: Path) -> None:
    plan = plan_of(Method.MTAN)
    run, finder = run_of(plan, tmp_path), build(plan, HOW)
    finder.prepare(begun=False)
    finder.learn(run, Silent())
    found = finder.derive(plan.table)
    assert (found.start, found.trained, found.details) == (None, None, {"init": "backbone"})
    assert not run.network(SEPARATE).exists()
    with pytest.raises(UsageError, match=r"init=separate: --method mtan has one encoder"):
        build(plan_of(Method.MTAN, init="separate"), HOW)


@pytest.mark.parametrize("resource", [Resource.MADDS, Resource.PARAMS])
@pytest.mark.parametrize("method", NETWORKS)
def test_budgets_are_kept_or_refused_before_anything_is_trained(method: Method, resource: Resource) -> None:
    plan = plan_of(method)
    kit = kit_of("tiny", TASKS)
    cost = architecture_costs(plan.table, open_space(method, kit, {}).architecture)[resource]
    unit = "MAdds" if resource is Resource.MADDS else "Params"
    for value in (cost, cost + 1):
        within = dataclasses.replace(plan, budgets=(parse_budget(f"{value!r}{unit}"),))
        build(within, HOW).prepare(begun=False)
    below = dataclasses.replace(plan, budgets=(parse_budget(f"{cost - 1!r}{unit}"),))
    with pytest.raises(BudgetError, match=f"--method {method.value} makes one network, which costs"):
        build(below, HOW).prepare(begun=False)


def test_budgets_of_other_resources_are_refused() -> None:
    plan = dataclasses.replace(plan_of(Method.MTAN), budgets=(parse_budget("12ms"),))
    with pytest.raises(UsageError, match=r"budget 12ms: latency_ms of --method mtan is not known"):
        build(plan, HOW).prepare(begun=False)

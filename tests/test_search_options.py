"""Searches other than the default one: without a budget, with the sampled estimator, on one CPU bit for bit the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.config import Decode, Estimator
from bmtas.errors import BudgetError, UsageError
from bmtas.interrupt import Interrupted
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Progress, Silent
from bmtas.workflow import run_search
from costs.decode import argmax_architecture
from costs.units import Resource

SHORT = {
    "batch_size": 2,
    "warmup_steps": 1,
    "weight_steps": 2,
    "weight_steps_per_cycle": 1,
    "arch_steps_per_cycle": 2,
    "resource_steps": 1,
}


def plan(budgets: tuple[str, ...] = (), decode: Decode = Decode.BEST, **changes: Any) -> Plan:
    return plan_search(
        Request(
            data="scenes",
            tasks=["semseg", "depth"],
            size=(32, 32),
            budgets=budgets,
            decode=decode,
            search_overrides={**SHORT, **changes},
        )
    )


def found(run: Any) -> tuple[dict[str, Any], np.ndarray]:
    architecture = json.loads(run.architecture_path.read_text())
    saved = json.loads((run.search_folder / "probabilities.json").read_text())
    return architecture, np.array(saved["probabilities"])


@pytest.mark.parametrize("kind", ["weight", "none"])
def test_without_a_budget_the_papers_decode_is_taken(tmp_path: Path, kind: str) -> None:
    changes = {"resource_weight": 0.5} if kind == "weight" else {}
    asked = plan(decode=Decode.ARGMAX, resource_term=kind, **changes)
    assert asked.budgets == ()
    run = run_search(asked, tmp_path, Silent(), How.alone("cpu"))
    architecture, probabilities = found(run)
    names = architecture["tasks"]
    groupings = [[[names[t] for t in block] for block in grouping] for grouping in argmax_architecture(probabilities)]
    assert architecture["groupings"] == groupings
    assert architecture["decode"] == "argmax"
    history = [json.loads(line) for line in (run.search_folder / "history.jsonl").read_text().splitlines()]
    arch = [record for record in history if record["phase"] == "architecture"]
    low, high = asked.table.shared_total(Resource.MADDS), asked.table.split_total(Resource.MADDS)
    assert all(low <= record["expected.madds"] <= high for record in arch)
    assert not any("multiplier.madds" in record for record in arch)
    assert [("tree" in record, record["phase"]) for record in history].count((True, "architecture")) == 2  # two cycles


def test_a_budget_holds_whatever_the_loss(tmp_path: Path) -> None:
    asked = plan(budgets=("20MMAdds",), resource_term="none")
    architecture, _ = found(run_search(asked, tmp_path, Silent(), How.alone("cpu")))
    assert architecture["costs"]["madds"] <= 20e6
    assert asked.table.split_total(Resource.MADDS) > 20e6  # the budget binds


def test_the_papers_decode_and_a_budget_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="argmax keeps no budget"):
        plan(budgets=("20MMAdds",), decode=Decode.ARGMAX)
    with pytest.raises(UsageError, match="argmax keeps no budget"):
        plan(decode=Decode.ARGMAX)  # a budget would be chosen for the search


@pytest.mark.parametrize("estimator", list(Estimator))
def test_stopped_and_resumed_is_bit_for_bit_the_same(
    tmp_path: Path, estimator: Estimator, signal_after: Callable[..., Progress]
) -> None:
    asked = plan(budgets=("20MMAdds",), estimator=estimator.value)
    straight = found(run_search(asked, tmp_path / "straight", Silent(), How.alone("cpu")))
    for steps in (2, 3):  # in the first cycle's architecture steps, then in the last one
        with pytest.raises(Interrupted):
            run_search(asked, tmp_path / "stopped", signal_after(steps), How.alone("cpu"))
    resumed = found(run_search(asked, tmp_path / "stopped", Silent(), How.alone("cpu")))
    assert len(list((tmp_path / "stopped").iterdir())) == 1
    assert resumed[0] == straight[0]
    np.testing.assert_array_equal(resumed[1], straight[1])


def test_budgets_that_exclude_each_other_are_refused_before_anything_begins(tmp_path: Path) -> None:
    # A latency that falls with more groups, and multiply-adds that rise: each budget can be met, both cannot.
    asked = plan()
    table = asked.table
    own = table.model_dump(mode="json")
    own["depends_on"] = {**{r.value: table.dependence(r) for r in table.resources()}, "latency_ms": "group_count"}
    for layer in own["layers"]:
        layer.setdefault("per_count", {})["latency_ms"] = [5.0, 1.0]
    for part in own["fixed"]:
        part["cost"]["latency_ms"] = 0.0
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own))
    shared = table.shared_total(Resource.MADDS)
    request = Request(
        data="scenes",
        tasks=["semseg", "depth"],
        size=(32, 32),
        budgets=(f"{shared / 1e6 * 1.0001:.4f}MMAdds", "20ms"),
        table=path,
        search_overrides=SHORT,
    )
    with pytest.raises(BudgetError, match=r"no architecture is within all budgets together.*within the others has 90"):
        plan_search(request)


@pytest.mark.slow
def test_half_precision_and_checkpointing_search_as_well(tmp_path: Path) -> None:
    asked = plan(budgets=("20MMAdds",), precision="bf16", activation_checkpointing=True)
    architecture, probabilities = found(run_search(asked, tmp_path, Silent(), How.alone("cpu")))
    assert architecture["costs"]["madds"] <= 20e6
    assert np.isfinite(probabilities).all()
    exact, exact_probabilities = found(
        run_search(plan(budgets=("20MMAdds",)), tmp_path / "exact", Silent(), How.alone("cpu"))
    )
    assert exact["tasks"] == architecture["tasks"]
    assert not np.array_equal(exact_probabilities, probabilities)  # something was computed in half precision


def test_the_history_for_tensorboard_has_every_step_of_an_interrupted_search_once(
    tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    asked, how = plan(budgets=("20MMAdds",)), replace(How.alone("cpu"), tensorboard=True)
    with pytest.raises(Interrupted):
        run_search(asked, tmp_path, signal_after(2), how)
    run = run_search(asked, tmp_path, Silent(), how)
    events = accumulator.EventAccumulator(str(run.search_folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    history = [json.loads(line) for line in (run.search_folder / "history.jsonl").read_text().splitlines()]
    for key, tag in (("loss.depth", "loss/depth"), ("expected.madds", "expected/madds")):
        told = [(r["step"], pytest.approx(r[key], rel=1e-6)) for r in history if key in r]
        assert [(e.step, e.value) for e in events.Scalars(tag)] == told
    assert {path.name for path in run.search_folder.glob("*.png")} == {
        "budget.png",
        "expected.png",
        "sharing.png",
        "tree.png",
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what itself does
def test_a_compiled_search_goes_the_same_way_and_its_checkpoint_is_any_searchs(
    tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    asked = plan_search(
        Request(
            data="planted",
            backbone="tiny",
            budgets=(),
            search_overrides={**SHORT, "learning_rate": 1e-5, "arch_learning_rate": 0.01, "resource_steps": 0},
        )
    )
    how = replace(How.alone("cpu"), compile=True)
    plain = found(run_search(asked, tmp_path / "plain", Silent(), How.alone("cpu")))
    with pytest.raises(Interrupted):
        run_search(asked, tmp_path / "compiled", signal_after(3), how)
    compiled = found(run_search(asked, tmp_path / "compiled", Silent(), how))
    assert compiled[0]["groupings"] == plain[0]["groupings"]
    np.testing.assert_allclose(compiled[1], plain[1], atol=1e-3)
    assert np.abs(plain[1] - 0.25).max() > 0.01  # it has learned

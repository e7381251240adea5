"""Keeping budgets in ms: by measuring what is found where the table is of this machine, with a margin where it is of another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import export.latency.meter
from bmtas.architecture import Architecture
from bmtas.config import RunConfig
from bmtas.errors import BudgetError, EnvironmentProblem, UsageError
from bmtas.planning import Plan
from bmtas.progress import Silent
from bmtas.tasks import Task
from costs.join import join_tables
from costs.measurement import Measurement
from costs.table import CostTable
from costs.units import Resource, parse_budget
from export.latency.meter import DeviceMeter, metered, open_model
from export.latency.untrained import untrained_network
from export.machine.identity import identify
from export.sessions.onnx import OnnxSession
from export.stopwatch import Rules
from tests.costs.test_measurement import measurement
from tests.export.latency.conftest import SIZE, TASKS

PAIR = TASKS[:2]
NAMES = tuple(task.name for task in PAIR)
MS, ENERGY = Resource.LATENCY_MS, Resource.ENERGY_MJ
QUICK = Rules(samples=12, warmup_s=0.0, window_s=0.01, percentiles=(50.0,))
HERE: dict[str, Any] = identify().model_dump(mode="json")
MakePlan = Callable[..., Plan]


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def about(device: dict[str, Any] = HERE, **changed: Any) -> Measurement:
    """Return how a table was measured: on `device`, by the ONNX Runtime that is here."""
    held_out = {k: changed.pop(k) for k in list(changed) if k in ("median_error", "ratio_interval")}
    told = {"device": device, "runtime": f"onnxruntime {HERE['runtimes']['onnxruntime']}", **changed}
    return measurement(**held_out).model_copy(update=told)


@pytest.fixture(scope="module")
def latency_table(tiny_table: CostTable) -> CostTable:
    """Each layer takes 1 ms shared and 1.5 apart; the stem and each head 0.5: 7.5 to 10.5 ms."""
    counted = tiny_table.subset(NAMES)
    own = CostTable(
        backbone="tiny",
        tasks=list(NAMES),
        input_size=SIZE,
        batch=1,
        depends_on="group_count",
        layers=[layer.model_copy(update={"per_group": {}, "per_count": {MS: [1.0, 1.5]}}) for layer in counted.layers],
        fixed=[part.model_copy(update={"cost": {MS: 0.5}}) for part in counted.fixed],
        provenance={},
    )
    return join_tables(counted, own, "own")


@pytest.fixture
def plan(
    latency_table: CostTable, run_config: Callable[[Sequence[Task], str], RunConfig]
) -> Callable[[str, Measurement | None], Plan]:
    """Return a function (budget, how it was measured) that gives the plan of a search."""

    def make(budget: str, how: Measurement | None) -> Plan:
        table = latency_table if how is None else latency_table.model_copy(update={"measured": {MS: how}})
        config = run_config(PAIR, budget).model_copy(update={"backbone": "tiny"})
        dataset: Any = None  # nothing here looks at images
        return Plan(config, table, (parse_budget(budget),), dataset, ())

    return make


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.latency.meter, "METER_RULES", QUICK)


def elsewhere() -> dict[str, Any]:
    return {**HERE, "cpu": {**HERE["cpu"], "model": "Another processor"}}


class TestTrust:
    def test_a_budget_in_counted_resources_needs_no_meter(self, plan: MakePlan) -> None:
        asked, notes = plan("1MMAdds", about(elsewhere(), median_error=0.5)), Notes()
        kept = metered(asked, notes)
        assert kept.plan is asked
        assert kept.meter is None
        assert notes.said == []

    def test_a_table_of_unknown_origin_is_taken_at_its_word(self, plan: MakePlan) -> None:
        asked, notes = plan("9ms", None), Notes()
        kept = metered(asked, notes)
        assert kept.plan is asked
        assert kept.meter is None
        (said,) = notes.said
        assert "budget 9ms: the table does not say how it was measured, so it is taken at its word" in said
        assert "bmtas profile --latency" in said

    @pytest.mark.parametrize("device", [HERE, elsewhere()], ids=["here", "elsewhere"])
    def test_a_table_that_is_far_off_keeps_no_budget(self, device: dict[str, Any], plan: MakePlan) -> None:
        words = (
            r"budget 9ms: the table is 10.1% off on whole networks that it was not fitted to \(median of 20\), and a budget is "
            r"kept by tables that are within 10%; measure again.*--passes"
        )
        with pytest.raises(UsageError, match=words):
            metered(plan("9ms", about(device, median_error=0.101)), Silent())

    def test_ten_percent_are_allowed(self, plan: MakePlan) -> None:
        assert metered(plan("9ms", about(elsewhere(), median_error=0.1)), Silent()).meter is None

    def test_a_table_that_does_not_tell_its_machine(self, plan: MakePlan) -> None:
        with pytest.raises(
            UsageError, match=r"does not tell what it was measured on \(cpu: Field required\); measure it again"
        ):
            metered(plan("9ms", about({"title": "A"})), Silent())


class TestMargin:
    def test_costs_are_as_high_as_whole_networks_were_above_the_table(self, plan: MakePlan) -> None:
        asked, notes = plan("9.5ms", about(elsewhere(), ratio_interval=(0.93, 1.08))), Notes()
        kept = metered(asked, notes)
        assert kept.meter is None
        assert kept.plan.table.shared_total(MS) == pytest.approx(1.08 * 7.5)
        assert kept.plan.table.split_total(MS) == pytest.approx(1.08 * 10.5)
        assert kept.plan.table.shared_total(Resource.MADDS) == asked.table.shared_total(Resource.MADDS)
        assert kept.plan.config == asked.config
        (said,) = notes.said
        assert "the processor differs: Another processor and" in said
        assert "Costs are taken 8.0% higher" in said
        assert "`bmtas bench`" in said

    def test_a_table_that_is_always_above_gets_none(self, plan: MakePlan) -> None:
        kept = metered(plan("9.5ms", about(elsewhere(), ratio_interval=(0.8, 0.97))), Silent())
        assert kept.plan.table.shared_total(MS) == 7.5

    def test_a_budget_that_the_margin_takes_out_of_reach(self, plan: MakePlan) -> None:
        with pytest.raises(
            BudgetError, match=r"with that margin, budget 8ms .*reachable is 8.100 ms \(all layers shared\)"
        ):
            metered(plan("8ms", about(elsewhere(), ratio_interval=(0.93, 1.08))), Silent())


@pytest.mark.usefixtures("_quick")
class TestHere:
    def test_a_budget_of_this_machine_has_a_meter(self, plan: MakePlan) -> None:
        asked, notes = plan("1000s", about(threads=1)), Notes()
        kept = metered(asked, notes)
        assert kept.plan is asked
        assert isinstance(kept.meter, DeviceMeter)
        assert set(kept.meter.last) == {"shared"}
        (said,) = [text for text in notes.said if "sharing everything" in text]
        assert said.startswith("all tasks sharing everything: predicted 7.500 ms, measured ")

    def test_a_budget_that_the_shared_network_is_over_is_refused_before_the_search(self, plan: MakePlan) -> None:
        with pytest.raises(
            BudgetError,
            match=r"budget 1e-6ms: the network that shares everything takes .* here now \(the table says 7.500",
        ):
            metered(plan("1e-6ms", about(threads=1)), Silent())

    def test_where_the_table_has_a_faster_tree_the_search_is_not_refused(
        self, plan: MakePlan, latency_table: CostTable
    ) -> None:
        asked = plan("1e-6ms", about(threads=1))
        layers = [
            layer.model_copy(update={"per_count": {**layer.per_count, MS: [1.0, 0.5]}}) for layer in asked.table.layers
        ]
        falling = asked.table.model_copy(update={"layers": layers})
        meter = DeviceMeter(PAIR, falling, {MS: about(threads=1)}, Silent(), rules=QUICK)
        meter.require_reach(asked.budgets)
        assert meter.last["shared"].median_ms > 1e-6


def parted(depth: int) -> Architecture:
    """Return the tree in which the two tasks are apart in the last `depth` of six layers."""
    apart = tuple((name,) for name in NAMES)
    return Architecture(backbone="tiny", tasks=NAMES, groupings=((NAMES,),) * (6 - depth) + (apart,) * depth)


class TestDeviceMeter:
    def test_it_measures_networks_beside_the_shared_and_the_separate_ones(self, latency_table: CostTable) -> None:
        notes = Notes()
        meter = DeviceMeter(PAIR, latency_table, {MS: about(threads=1)}, notes, rules=QUICK)
        for depth in (3, 1):
            readings = meter(parted(depth))
            assert list(readings) == [MS]
            assert set(meter.last) == {"found", "shared", "separate"}
            found = meter.last["found"]
            assert [len(timing.latencies_ms) for timing in meter.last.values()] == [12, 12, 12]
            assert found.interval is not None
            assert readings[MS].median == found.median_ms
            assert readings[MS].upper == found.interval.high
            assert min(found.latencies_ms) <= readings[MS].median <= readings[MS].upper <= max(found.latencies_ms)
        exported = [text.split()[2] for text in notes.said if text.startswith("exporting")]
        assert exported == ["shared", "separate", "found", "found"]  # the first two once

    def test_energy_without_a_sensor_is_told(
        self, latency_table: CostTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        monkeypatch.setattr(export.latency.meter, "_ENERGY_S", 0.05)
        meter = DeviceMeter(PAIR, latency_table, {ENERGY: about(threads=1)}, Silent(), tmp_path, QUICK)
        with pytest.raises(EnvironmentProblem, match="nothing measures power here any more"):
            meter(Architecture.shared("tiny", NAMES, 6))


class TestOpenModel:
    """A network is run as the table's were: precision, runtime, provider, threads."""

    @pytest.fixture(scope="class")
    def model(self, traced: Callable[..., tuple[Any, Any]]) -> Any:
        return traced(Architecture.shared("tiny", NAMES, 6), PAIR)[1]

    def test_onnx_runtime_with_the_table_s_threads(self, model: Any) -> None:
        session = open_model(model, about(threads=3, provider="CPUExecutionProvider"), Silent())
        assert isinstance(session, OnnxSession)
        assert session.provider == "CPUExecutionProvider"
        assert session._session.get_session_options().intra_op_num_threads == 3
        assert session.outputs == list(NAMES)

    def test_openvino(self, model: Any) -> None:
        how = about(threads=1, runtime="openvino 2026.4.0", provider="CPU")
        session = open_model(model, how, Silent())
        assert (session.runtime.split()[0], session.provider) == ("openvino", "CPU")
        assert set(session.run({"image": session.inputs["image"].noise()})) == set(NAMES)

    def test_eight_bits(self, model: Any) -> None:
        session = open_model(model, about(threads=1, precision="int8"), Silent())
        outputs = session.run({"image": session.inputs["image"].noise()})
        assert all(abs(value).max() > 0 for value in outputs.values())

    def test_a_provider_that_is_not_here(self, model: Any) -> None:
        with pytest.raises(UsageError, match="unknown provider 'TPUExecutionProvider'"):
            open_model(model, about(provider="TPUExecutionProvider"), Silent())

    def test_a_runtime_that_is_not_known(self, model: Any) -> None:
        with pytest.raises(UsageError, match="unknown runtime 'caffe'"):
            open_model(model, about(runtime="caffe 1.0"), Silent())


def test_untrained_networks_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, other = (untrained_network(Architecture.shared("tiny", NAMES, 6), PAIR) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert not one.training
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    biases = [value for name, value in one.named_parameters() if name.endswith(".bias")]
    assert biases
    assert all(bool((bias != 0).all()) for bias in biases)

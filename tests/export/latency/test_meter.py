"""Keeping budgets in ms: by measuring what is found where the table is of this machine, with a margin where it is of another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export.latency.meter
from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BudgetError, EnvironmentProblem, UsageError
from bmtas.progress import Silent
from costs.join import join_tables
from costs.measurement import Measurement
from costs.table import CostTable
from costs.units import Resource, parse_budget
from export.latency.keeping import Metered, metered
from export.latency.meter import DeviceMeter, open_model
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


MakeTable = Callable[[Measurement | None], CostTable]


@pytest.fixture
def table_of(latency_table: CostTable) -> MakeTable:
    """Return a function that gives the table as measured so, or by nobody knows whom."""
    return lambda how: latency_table if how is None else latency_table.model_copy(update={"measured": {MS: how}})


def kept(table: CostTable, budget: str, progress: Silent | None = None, **options: Any) -> Metered:
    return metered(table, [parse_budget(budget)], PAIR, progress or Silent(), **options)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.latency.meter, "METER_RULES", QUICK)


def elsewhere() -> dict[str, Any]:
    return {**HERE, "cpu": {**HERE["cpu"], "model": "Another processor"}}


class TestTrust:
    def test_a_budget_in_counted_resources_needs_no_meter(self, table_of: MakeTable) -> None:
        table, notes = table_of(about(elsewhere(), median_error=0.5)), Notes()
        found = kept(table, "1MMAdds", notes)
        assert found.table is table
        assert found.meter is None
        assert notes.said == []

    def test_a_table_of_unknown_origin_is_taken_at_its_word(self, table_of: MakeTable) -> None:
        table, notes = table_of(None), Notes()
        found = kept(table, "9ms", notes)
        assert found.table is table
        assert found.meter is None
        (said,) = notes.said
        assert "budget 9ms: the table does not say how it was measured, so it is taken at its word" in said
        assert "bmtas profile --latency" in said

    @pytest.mark.parametrize("device", [HERE, elsewhere()], ids=["here", "elsewhere"])
    def test_a_table_that_is_far_off_keeps_no_budget(self, device: dict[str, Any], table_of: MakeTable) -> None:
        words = (
            r"budget 9ms: the table is 10.1% off on whole networks that it was not fitted to \(median of 20\), and a budget is "
            r"kept by tables that are within 10%; measure again.*--passes"
        )
        with pytest.raises(UsageError, match=words):
            kept(table_of(about(device, median_error=0.101)), "9ms")

    def test_ten_percent_are_allowed(self, table_of: MakeTable) -> None:
        assert kept(table_of(about(elsewhere(), median_error=0.1)), "9ms").meter is None

    def test_a_table_that_does_not_tell_its_machine(self, table_of: MakeTable) -> None:
        words = r"does not tell what it was measured on \(cpu: Field required\); measure it again"
        with pytest.raises(UsageError, match=words):
            kept(table_of(about({"title": "A"})), "9ms")


class TestMargin:
    def test_costs_are_as_high_as_whole_networks_were_above_the_table(self, table_of: MakeTable) -> None:
        table, notes = table_of(about(elsewhere(), ratio_interval=(0.93, 1.08))), Notes()
        found = kept(table, "9.5ms", notes)
        assert found.meter is None
        assert found.table.shared_total(MS) == pytest.approx(1.08 * 7.5)
        assert found.table.split_total(MS) == pytest.approx(1.08 * 10.5)
        assert found.table.shared_total(Resource.MADDS) == table.shared_total(Resource.MADDS)
        (said,) = notes.said
        assert "the processor differs: Another processor and" in said
        assert "Costs are taken 8.0% higher" in said
        assert "`bmtas bench --json`" in said

    def test_a_table_that_is_always_above_gets_none(self, table_of: MakeTable) -> None:
        assert kept(table_of(about(elsewhere(), ratio_interval=(0.8, 0.97))), "9.5ms").table.shared_total(MS) == 7.5

    def test_a_budget_that_the_margin_takes_out_of_reach(self, table_of: MakeTable) -> None:
        with pytest.raises(
            BudgetError, match=r"with that margin, budget 8ms .*reachable is 8.100 ms \(all layers shared\)"
        ):
            kept(table_of(about(elsewhere(), ratio_interval=(0.93, 1.08))), "8ms")


@pytest.mark.usefixtures("_quick")
class TestHere:
    def test_a_budget_of_this_machine_has_a_meter(self, table_of: MakeTable) -> None:
        table, notes = table_of(about(threads=1)), Notes()
        found = kept(table, "1000s", notes)
        assert found.table is table
        assert isinstance(found.meter, DeviceMeter)
        assert set(found.meter.last) == {"shared"}
        (said,) = [text for text in notes.said if "sharing everything" in text]
        assert said.startswith("all tasks sharing everything: predicted 7.500 ms, measured ")

    def test_nothing_is_run_where_nothing_is_to_be_done(self, table_of: MakeTable) -> None:
        notes = Notes()
        found = kept(table_of(about(threads=1)), "1e-6ms", notes, measure=False)
        assert found.meter is not None
        assert found.meter.last == {}
        assert notes.said == []

    def test_a_budget_that_the_shared_network_is_over_is_refused_before_the_search(self, table_of: MakeTable) -> None:
        with pytest.raises(
            BudgetError,
            match=r"budget 1e-6ms: the network that shares everything takes .* here now \(the table says 7.500",
        ):
            kept(table_of(about(threads=1)), "1e-6ms")

    def test_where_the_table_has_a_faster_tree_the_search_is_not_refused(self, latency_table: CostTable) -> None:
        layers = [
            layer.model_copy(update={"per_count": {**layer.per_count, MS: [1.0, 0.5]}})
            for layer in latency_table.layers
        ]
        falling = latency_table.model_copy(update={"layers": layers})
        meter = DeviceMeter(PAIR, falling, {MS: about(threads=1)}, Silent(), rules=QUICK)
        meter.require_reach([parse_budget("1e-6ms")])
        assert meter.last["shared"].median_ms > 1e-6


def parted(depth: int) -> Architecture:
    """Return the tree in which the two tasks are apart in the last `depth` of six layers."""
    apart = tuple((name,) for name in NAMES)
    return BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=((NAMES,),) * (6 - depth) + (apart,) * depth)


@pytest.mark.slow
def test_networks_are_measured_beside_the_shared_and_the_separate_ones(
    latency_table: CostTable, twenty_watts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.latency.meter, "_ENERGY_S", 0.3)
    notes, known = Notes(), {MS: about(threads=1), ENERGY: about(threads=1, rail="package-0")}
    meter = DeviceMeter(PAIR, latency_table, known, notes, twenty_watts, QUICK)
    readings = meter(parted(3))
    assert list(readings) == [MS, ENERGY]
    assert set(meter.last) == {"found", "shared", "separate"}
    found, latency = meter.last["found"], readings[MS]
    assert [len(timing.latencies_ms) for timing in meter.last.values()] == [12, 12, 12]
    assert found.interval is not None
    assert (latency.median, latency.upper) == (found.median_ms, found.interval.high)
    assert min(found.latencies_ms) <= latency.median <= latency.upper <= max(found.latencies_ms)
    assert latency.about == {
        "stable": found.stable,
        "samples": 12,
        "shared_ms": meter.last["shared"].median_ms,
        "separate_ms": meter.last["separate"].median_ms,
    }
    # 20 W for so many ms; the mean of a busy machine's runs, of which the median was taken before.
    assert 0.2 * 20 * min(found.latencies_ms) < readings[ENERGY].median < 20 * 20 * max(found.latencies_ms)
    assert readings[ENERGY].median <= readings[ENERGY].upper
    assert readings[ENERGY].about == {"stretches": 3, "rail": "package-0"}
    shutil.rmtree(twenty_watts / "sys")
    with pytest.raises(
        EnvironmentProblem, match="the power rail 'package-0' of the table is not measured here any more"
    ):
        meter(parted(1))
    exported = [text.split()[2] for text in notes.said if text.startswith("exporting")]
    assert exported == ["shared", "separate", "found", "found"]  # the first two once


@pytest.fixture(scope="module")
def model(traced: Callable[..., tuple[Any, Any]]) -> Any:
    return traced(BranchedArchitecture.shared("tiny", NAMES, 6), PAIR)[1]


class TestOpenModel:
    """A network is run as the table's were: precision, runtime, provider, threads."""

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
    one, other = (untrained_network(BranchedArchitecture.shared("tiny", NAMES, 6), PAIR) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert not one.training
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    biases = [value for name, value in one.named_parameters() if name.endswith(".bias")]
    assert biases
    assert all(bool((bias != 0).all()) for bias in biases)

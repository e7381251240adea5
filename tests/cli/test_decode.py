"""`bmtas decode`: another tree from a finished search, for other budgets or after the device has measured the first one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmtas.data.source import open_with_tasks
from bmtas.networks.backbone import get_backbone
from bmtas.profile import build_table
from bmtas.runs import FOUND, Run, open_run
from bmtas.tables import architecture_costs
from costs.measurement import HeldOut, Measurement
from costs.table import CostTable
from costs.units import Resource
from export.bench.measure import stats
from export.bench.options import rules_of
from export.bench.report import Energy, Report, Result, Settings
from export.machine.model import Conditions, Cpu, Identity, System
from export.stopwatch import judge

MS, MADDS = Resource.LATENCY_MS, Resource.MADDS
MS_PER_MMADDS = 0.1
MARGIN = 1.1
NETWORK = ("--tasks", "semseg,depth", "--backbone", "tiny", "--size", "64x64")
QUICK = ("--batch-size", "2", "--search-size", "32x32", "--warmup-steps", "1", "--search-steps", "1")
Bmtas = Callable[..., Any]


def board(model: str = "A board of another make") -> Identity:
    return Identity(
        title=model, cpu=Cpu(model=model, architecture="aarch64", usable=4), system=System(kernel="6", python="3.12")
    )


@pytest.fixture(scope="module")
def table_file(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of a board: 0.1 ms for every million multiply-adds, held out to 10 % above it."""
    _, tasks = open_with_tasks(str(tiny_data), ["semseg", "depth"])
    counted = build_table(get_backbone("tiny"), tasks, (64, 64))

    def ms(madds: float) -> float:
        return MS_PER_MMADDS * madds / 1e6

    about = Measurement(
        precision="fp32",
        runtime="onnxruntime 1.31.1",
        provider="CPUExecutionProvider",
        threads=1,
        device=board().model_dump(mode="json"),
        date="2026-11-22T00:00:00+00:00",
        samples=48,
        spread=0.01,
        held_out=HeldOut(
            networks=20,
            median_error=0.02,
            median_interval=(0.01, 0.03),
            worst_error=0.1,
            ratio_interval=(0.9, MARGIN),
            proportional_median_error=0.02,
            proportional_worst_error=0.1,
        ),
        coefficients={"sum": 1.0},
    )
    table = CostTable(
        backbone="tiny",
        tasks=counted.tasks,
        input_size=counted.input_size,
        batch=1,
        depends_on={MS: "group_count"},
        layers=[
            layer.model_copy(
                update={"per_group": {}, "per_count": {MS: [n * ms(layer.per_group[MADDS]) for n in (1, 2)]}}
            )
            for layer in counted.layers
        ],
        fixed=[part.model_copy(update={"cost": {MS: ms(part.cost[MADDS])}}) for part in counted.fixed],
        provenance={},
        measured={MS: about},
    )
    path = tmp_path_factory.mktemp("board") / "board.json"
    path.write_text(table.to_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def searched(bmtas: Bmtas, tiny_data: Path, table_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search with a budget in ms that only the split tree and its like need, so that the first tree may be any."""
    runs = tmp_path_factory.mktemp("runs")
    given = ("--data", tiny_data, "--costs", table_file, "--budget", "100s", "--runs", runs, *NETWORK, *QUICK)
    result = bmtas("search", *given)
    assert result.code == 0, result.err
    return open_run(runs, None)


@pytest.fixture
def decode(bmtas: Bmtas, searched: Run) -> Callable[..., Any]:
    """Decode the searched run again; a run folder that comes of it stays beside it."""

    def run(*arguments: object) -> Any:
        return bmtas("decode", "--runs", searched.path.parent, "--run", searched.name, *arguments)

    return run


def report(searched: Run, factor: float, **change: Any) -> dict[str, Any]:
    """What the board says of the exported network: `factor` times what the run's table says, with nothing amiss."""
    found = searched.architecture(FOUND)
    costs = architecture_costs(searched.table(), found)
    rules = rules_of(warmup_s=0.0, time_cap_s=1.0, spread=0.01, percentiles=(50.0,), samples=40)
    sample = stats(judge([factor * costs[MS]] * 40, range(4, 41, 4), rules))
    result = Result(
        key="model.onnx/onnxruntime",
        network="model.onnx",
        runtime="onnxruntime 1.31.1",
        provider="CPUExecutionProvider",
        threads=1,
        input_shape=[1, 3, 64, 64],
        precision="fp32",
        tasks=list(found.tasks),
        costs={"madds": costs[MADDS]},
        compute=sample,
        energy=Energy(unavailable="no sensor of power was found"),
    )
    whole = Report(
        written_by="bmtas 0",
        date="2026-11-22T00:00:00+00:00",
        device=board(),
        conditions=Conditions(samples=1, interval_s=0.1, throttled=False),
        settings=Settings(provider="cpu", threads=[1], batch=None, rates=None, fps=None, rules={}),
        definitions=[],
        results=[result],
    ).to_json()
    whole["results"][0].update(change)
    return whole


def written(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "bench.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def newest(searched: Run) -> Run:
    return open_run(searched.path.parent, None)


class TestOtherBudgets:
    def test_a_tree_within_the_other_budget_gets_a_run_of_its_own(
        self, decode: Callable[..., Any], searched: Run
    ) -> None:
        shared = searched.table().shared_total(MADDS)
        before = searched.architecture_path.read_bytes()
        result = decode("--budget", f"{shared:.0f}MAdds")
        assert result.code == 0, result.err
        made = newest(searched)
        assert made.path != searched.path
        assert made.architecture(FOUND).group_counts == (1,) * 6  # nothing else costs so little
        assert made.config().budgets == [f"{shared:.0f}MAdds"]
        assert json.loads(made.architecture_path.read_text())["decoded_from"] == searched.name
        assert (made.search_folder / "probabilities.json").read_bytes() == (
            searched.search_folder / "probabilities.json"
        ).read_bytes()
        assert searched.architecture_path.read_bytes() == before

    def test_below_all_reach(self, decode: Callable[..., Any], searched: Run) -> None:
        count = len(list(searched.path.parent.iterdir()))
        result = decode("--budget", "1MAdds")
        assert result.code == 6
        assert "no network of tiny for 2 tasks is within it" in result.err
        assert len(list(searched.path.parent.iterdir())) == count

    def test_nothing_is_asked_for(self, decode: Callable[..., Any]) -> None:
        result = decode()
        assert result.code == 2
        assert "--budget" in result.err
        assert "--measured" in result.err

    def test_a_baseline_has_nothing_to_decode(self, bmtas: Bmtas, tiny_data: Path, tmp_path: Path) -> None:
        given = ("--data", tiny_data, "--method", "vanilla", "--budget", "1GMAdds", "--runs", tmp_path, *NETWORK)
        assert bmtas("search", *given).code == 0
        result = bmtas("decode", "--runs", tmp_path, "--budget", "1GMAdds")
        assert result.code == 2
        assert "--method vanilla" in result.err


class TestWhatTheDeviceMeasured:
    def test_the_table_is_corrected_by_it(self, decode: Callable[..., Any], searched: Run, tmp_path: Path) -> None:
        """The board took 1.5 times what the table says with its margin; the corrected table gets the margin anew."""
        path = written(report(searched, 1.5), tmp_path)
        result = decode("--measured", path, "--network", "model.onnx")
        assert result.code == 0, result.err
        assert "corrected by +50.0%" in result.err
        made = newest(searched)
        told = made.table().measured[MS]
        assert told.margin == pytest.approx(MARGIN)
        (correction,) = told.corrections
        predicted = architecture_costs(searched.table(), searched.architecture(FOUND))[MS]
        assert correction.predicted == pytest.approx(predicted)
        assert correction.upper == pytest.approx(1.5 * predicted)
        # All costs: 1.1 at first, then 1.5, then 1.1 again for what trees differ by.
        by_hand = MS_PER_MMADDS / 1e6 * MARGIN * 1.5 * MARGIN * made.table().shared_total(MADDS)
        assert made.table().shared_total(MS) == pytest.approx(by_hand)

    def test_a_tree_within_the_budget_by_the_corrected_table(
        self, decode: Callable[..., Any], searched: Run, tmp_path: Path
    ) -> None:
        """By the corrected table the budget is just enough for sharing everything."""
        path = written(report(searched, 2.0), tmp_path)
        shared = 2.0 * MARGIN * searched.table().shared_total(MS)
        result = decode("--measured", path, "--network", "model.onnx", "--budget", f"{1.0001 * shared}ms")
        assert result.code == 0, result.err
        assert newest(searched).architecture(FOUND).group_counts == (1,) * 6

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"network": "other.onnx"}, "tells of other.onnx, not of model.onnx"),
            ({"precision": "int8"}, "measure it so"),
            ({"threads": 4}, "measure it so"),
            ({"input_shape": [1, 3, 32, 32]}, "takes 1x3x32x32"),
            ({"input_shape": [8, 3, 64, 64]}, "the table is of batch 1"),
            ({"costs": {"madds": 1.0}}, "1.0 MAdds"),
            ({"tasks": ["semseg"]}, "has the tasks semseg"),
        ],
    )
    def test_of_another_network_or_way(
        self, change: dict[str, Any], words: str, decode: Callable[..., Any], searched: Run, tmp_path: Path
    ) -> None:
        result = decode("--measured", written(report(searched, 1.0, **change), tmp_path), "--network", "model.onnx")
        assert result.code == 2
        assert words in result.err

    def test_of_another_device(self, decode: Callable[..., Any], searched: Run, tmp_path: Path) -> None:
        content = report(searched, 1.0)
        content["device"] = board("A third board").model_dump(mode="json")
        result = decode("--measured", written(content, tmp_path), "--network", "model.onnx")
        assert result.code == 2
        assert "another device than the table" in result.err

    def test_of_a_measurement_that_did_not_come_to_rest(
        self, decode: Callable[..., Any], searched: Run, tmp_path: Path
    ) -> None:
        content = report(searched, 1.0)
        content["results"][0]["compute"]["unmet"] = ["it drifts"]
        content["conditions"].update(throttled=True, throttle_reasons=["gpu: heat"])
        result = decode("--measured", written(content, tmp_path), "--network", "model.onnx")
        assert result.code == 2
        assert "it drifts" in result.err
        assert "gpu: heat" in result.err

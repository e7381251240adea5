"""Summaries: Delta_m by hand and by the paper, and what a run folder has come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bmtas.architecture import BranchedArchitecture
from bmtas.config import RunConfig
from bmtas.files import write_json
from bmtas.runs import FOUND, SEPARATE, SHARED, Run, create_run
from bmtas.summary import delta_m, network_costs, summarise_run
from bmtas.tasks import TASK_SETS, Task, TaskKind
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

NAN = float("nan")
PASCAL = TASK_SETS["pascal-context"]
# The paper's Table 1 (PASCAL-Context, MobileNetV2): edge odsF, normals mean angle, saliency, parts and semseg mIoU.
SINGLE = {"semseg": 65.11, "parts": 57.54, "saliency": 65.41, "normals": 13.98, "edge": 69.50}
ALL_SHARED = {"semseg": 59.69, "parts": 55.96, "saliency": 63.03, "normals": 16.02, "edge": 67.80}
BMTAS_2 = {"semseg": 62.80, "parts": 57.72, "saliency": 64.92, "normals": 14.48, "edge": 68.70}


@pytest.mark.parametrize(("metrics", "expected"), [(ALL_SHARED, -6.35), (BMTAS_2, -1.74), (SINGLE, 0)])
def test_delta_m_of_the_paper_s_first_table(metrics: dict[str, float], expected: float) -> None:
    assert delta_m(metrics, SINGLE, PASCAL) == pytest.approx(expected, abs=0.05)


def test_delta_m_by_hand() -> None:
    tasks = (Task(name="seg", kind=TaskKind.BINARY), Task(name="depth", kind=TaskKind.DEPTH))
    # 0.5 to 0.55 is +10 %; an error of 2 to 2.4 is -20 %
    assert delta_m({"seg": 0.55, "depth": 2.4}, {"seg": 0.5, "depth": 2.0}, tasks) == pytest.approx(-5)
    assert delta_m({"seg": 0.55, "depth": 1.6}, {"seg": 0.5, "depth": 2.0}, tasks) == pytest.approx(15)
    assert delta_m({"seg": 0.55}, {"seg": 0.5}, tasks[:1]) == pytest.approx(10)


@pytest.mark.parametrize(("value", "base"), [(0.5, 0.0), (NAN, 0.5), (0.5, NAN), (float("inf"), 0.5)])
def test_where_nothing_can_be_said_relative_to_the_baseline_there_is_no_delta(value: float, base: float) -> None:
    tasks = (Task(name="seg", kind=TaskKind.BINARY), Task(name="depth", kind=TaskKind.DEPTH))
    assert delta_m({"seg": value, "depth": 1.0}, {"seg": base, "depth": 1.0}, tasks) is None


# --- a run folder

TASKS = (Task(name="a", kind=TaskKind.BINARY), Task(name="b", kind=TaskKind.DEPTH))


@pytest.fixture
def run(tmp_path: Path, run_config: Callable[[Sequence[Task], str], RunConfig]) -> Run:
    """A run whose stem costs 1, whose three layers cost 10 each, whose heads cost 100 and 200 multiply-adds."""

    def cost(madds: float) -> dict[Resource, float]:
        return {Resource.MADDS: madds, Resource.PARAMS: madds / 10}

    config = run_config(TASKS, "350MAdds")
    table = CostTable(
        backbone="mobilenet_v2",
        tasks=["a", "b"],
        input_size=(64, 64),
        batch=1,
        layers=[LayerCost(name=f"layers.{i:02d}", per_group=cost(10)) for i in range(3)],
        fixed=[
            FixedCost(name="stem", shared=True, tasks=["a", "b"], cost=cost(1)),
            FixedCost(name="heads.a", shared=False, tasks=["a"], cost=cost(100)),
            FixedCost(name="heads.b", shared=False, tasks=["b"], cost=cost(200)),
        ],
        provenance={},
    )
    return create_run(tmp_path / "runs", "scenes-340", config, table)


def find(run: Run) -> None:
    """Write the architecture that the search would: the tasks part in the last layer."""
    together, apart = (("a", "b"),), (("a",), ("b",))
    found = BranchedArchitecture(backbone="mobilenet_v2", tasks=("a", "b"), groupings=(together, together, apart))
    write_json(run.architecture_path, found.to_json())


def measure(run: Run, name: str, a: float | None, b: float | None, size: int = 64) -> None:
    tasks = {"a": {"metric": "max_iou", "value": a}, "b": {"metric": "rmse_m", "value": b}}
    write_json(
        run.network(name) / "metrics.json",
        {"schema_version": 1, "split": "val", "size": [size, size], "images": 8, "tasks": tasks},
    )


def test_exact_costs_of_all_networks(run: Run) -> None:
    find(run)
    assert network_costs(run, SHARED) == {"madds": 331, "params": 33.1}
    assert network_costs(run, FOUND) == {"madds": 341, "params": 34.1}
    assert network_costs(run, SEPARATE) == {"madds": 362, "params": 36.2}


def test_the_tree_and_what_the_tasks_share(run: Run) -> None:
    find(run)
    stored = {**json.loads(run.architecture_path.read_text()), "exact": False, "gap": 0.5, "log_probability": -2.0}
    write_json(run.architecture_path, stored)
    assert summarise_run(run)["tree"] == {
        "tasks": ["a", "b"],
        "groupings": [[["a", "b"]], [["a", "b"]], [["a"], ["b"]]],
        "exact": False,
        "gap": 0.5,
        "log_probability": -2.0,
        "layers_shared": {"a": {"b": 2}, "b": {"a": 2}},
    }


def test_before_the_search_has_ended_there_is_no_found_network(run: Run) -> None:
    summary = summarise_run(run)
    assert summary["tree"] is None
    assert list(summary["networks"]) == [SHARED, SEPARATE]
    assert summary["networks"][SHARED]["metrics"] is None
    assert summary["networks"][SHARED]["delta_m_percent"] is None
    assert summary["networks"][SHARED]["latency"] is None


def test_delta_m_of_a_run_is_relative_to_its_separate_networks(run: Run) -> None:
    find(run)
    measure(run, SEPARATE, 0.5, 2.0)
    measure(run, FOUND, 0.55, 2.4)
    networks = summarise_run(run)["networks"]
    assert list(networks) == [SHARED, FOUND, SEPARATE]
    assert networks[FOUND]["delta_m_percent"] == pytest.approx(-5)
    assert networks[SEPARATE]["delta_m_percent"] == pytest.approx(0)
    assert networks[SHARED]["delta_m_percent"] is None
    assert networks[FOUND]["metrics"]["tasks"]["b"]["value"] == 2.4


def test_networks_measured_at_other_sizes_are_not_compared(run: Run) -> None:
    find(run)
    measure(run, SEPARATE, 0.5, 2.0)
    measure(run, FOUND, 0.55, 2.4, size=32)
    assert summarise_run(run)["networks"][FOUND]["delta_m_percent"] is None


def test_a_metric_without_a_number_has_no_delta(run: Run) -> None:
    measure(run, SEPARATE, 0.5, None)
    measure(run, SHARED, 0.5, 2.0)
    assert summarise_run(run)["networks"][SHARED]["delta_m_percent"] is None


def test_why_there_is_no_delta_m_though_all_is_measured(run: Run) -> None:
    def reason() -> str | None:
        entry = summarise_run(run)["networks"][SHARED]
        assert entry["delta_m_percent"] is None
        told: str | None = entry["delta_m_undefined"]
        return told

    measure(run, SHARED, 0.5, None)
    assert reason() is None  # the separate networks are not measured yet
    measure(run, SEPARATE, 0.5, 2.0)
    assert reason() == "the network has no value in b"
    measure(run, SEPARATE, 0.0, None)
    assert reason() == "the separate networks have 0 in a and no value in b"
    measure(run, SEPARATE, 0.5, 2.0, size=32)
    assert reason() == "the separate networks are measured on other images"
    measure(run, SEPARATE, 0.5, 2.0)
    measure(run, SHARED, 0.5, 2.0)
    assert summarise_run(run)["networks"][SHARED]["delta_m_undefined"] is None


def test_latency_is_that_of_the_network_in_onnx_runtime(run: Run) -> None:
    timing = {"provider": "CPU", "samples": 50, "p90_ms": 3.0, "spread": 0.01, "more": 1}
    results = [
        {"network": SHARED, "runtime": "torch eager", "median_ms": 9.0} | timing,
        {"network": SHARED, "runtime": "onnxruntime 1.20", "median_ms": 2.0} | timing,
    ]
    write_json(run.path / "bench.json", {"schema_version": 1, "results": results})
    networks = summarise_run(run)["networks"]
    assert networks[SHARED]["latency"]["median_ms"] == 2.0
    assert networks[SEPARATE]["latency"] is None


def test_the_latency_of_today_s_bench_comes_with_its_interval(run: Run) -> None:
    """A file of the second schema; one of the first, above, tells no interval, and says so."""
    percentiles = {"p90": {"value_ms": 2.5, "bound_ms": 2.75, "needed": 64}}
    sample = {"samples": 80, "median_ms": 2.0, "low_ms": 1.5, "high_ms": 2.25, "spread": 0.1, "stable": True}
    result = {"network": SHARED, "runtime": "onnxruntime 1.31", "provider": "CPU"}
    results = [{**result, "compute": {**sample, "percentiles": percentiles, "latencies_ms": [2.0]}}]
    write_json(run.path / "bench.json", {"schema_version": 2, "results": results})
    latency = summarise_run(run)["networks"][SHARED]["latency"]
    assert latency == {"runtime": "onnxruntime 1.31", "provider": "CPU", **sample, "p90_ms": 2.5}
    first = [{**result, "samples": 9, "median_ms": 3.0, "p90_ms": None, "spread": 0.2}]
    write_json(run.path / "bench.json", {"schema_version": 1, "results": first})
    latency = summarise_run(run)["networks"][SHARED]["latency"]
    assert (latency["median_ms"], latency["low_ms"], latency["high_ms"], latency["stable"]) == (3.0, None, None, None)

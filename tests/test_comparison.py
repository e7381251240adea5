"""Runs side by side: numbers by hand, refusals, and the forms of the table, on run folders written here."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bmtas.comparison import Comparison, Spread, compare_runs
from bmtas.comparison_text import to_csv, to_json, to_latex, to_markdown
from bmtas.config import PRESETS, Estimator, Method, Preset, RunConfig
from bmtas.errors import UsageError
from bmtas.files import write_json
from bmtas.measured import alike_the_last
from bmtas.plots_pareto import draw_pareto
from bmtas.runs import Run, all_runs, create_run, measured_runs
from bmtas.tasks import Task, TaskKind
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TASKS = [
    Task(name="seg", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
    Task(name="depth", kind=TaskKind.DEPTH),
]
TABLE = CostTable(
    backbone="toy",
    tasks=["seg", "depth"],
    input_size=(8, 8),
    batch=1,
    layers=[LayerCost(name=f"layers.{i}", per_group={Resource.MADDS: 1e9}) for i in range(2)],
    fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 1e9})],
    provenance={},
)
# All shared: the stem and two layers, 3 GMAdds; one part at the last layer: 4; separate: 6.


def run_of(root: Path, method: Method, seed: int, values: tuple[float, float | None], **changes: Any) -> Run:
    """Return a run whose found network has been trained and measured as seg `values[0]` and depth `values[1]`."""
    preset = PRESETS[Preset.QUICK]
    settings: dict[str, Any] = {
        "data": "here",
        "data_fingerprint": "one",
        "tasks": [task.to_json() for task in TASKS],
        "backbone": "toy",
        "weights": "none",
        "budgets": [] if method in (Method.SINGLE, Method.SHARED) else ["4GMAdds"],
        "preset": Preset.QUICK,
        "seed": seed,
        "deploy_size": (8, 8),
        "search_size": (8, 8),
        "train_size": (8, 8),
        "search": preset.search,
        "train": preset.train,
        "method": method,
    }
    size, images, metric = (changes.pop(k, v) for k, v in (("size", [8, 8]), ("images", 5), ("metric", "miou")))
    config = RunConfig.model_validate({**settings, **changes})
    table = TABLE.model_copy(update={"backbone": config.backbone})
    run = create_run(root, method.value, config, table)
    alone, together = [["seg"], ["depth"]], [["seg", "depth"]]
    groupings = {Method.SINGLE: [alone, alone], Method.SHARED: [together, together]}.get(method, [together, alone])
    architecture = {
        "schema_version": 1,
        "method": method.value,
        "backbone": config.backbone,
        "tasks": ["seg", "depth"],
        "shared_stem": method is not Method.SINGLE,
        "groupings": groupings,
    }
    write_json(run.architecture_path, architecture)
    measure(run, "found", values, size=size, images=images, metric=metric)
    return run


def measure(run: Run, name: str, values: tuple[float, float | None], **how: Any) -> None:
    folder = run.network(name)
    folder.mkdir(parents=True)
    (folder / "weights.pt").touch()
    tasks = {
        "seg": {"metric": how.get("metric", "miou"), "value": values[0], "more": {"pixel_accuracy": 0.5}},
        "depth": {"metric": "rmse_m", "value": values[1], "more": {}},
    }
    content = {"schema_version": 1, "size": how.get("size", [8, 8]), "images": how.get("images", 5), "tasks": tasks}
    write_json(folder / "metrics.json", content)


@pytest.fixture
def two_seeds(tmp_path: Path) -> list[Run]:
    """Return singles and vanilla networks of two seeds: Delta_m -15 % and +10 %."""
    return [
        run_of(tmp_path, Method.VANILLA, 0, (0.4, 2.2)),  # -20 % and -10 %
        run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0)),
        run_of(tmp_path, Method.VANILLA, 1, (0.4, 0.8)),  # 0 and +20 %
        run_of(tmp_path, Method.SINGLE, 1, (0.4, 1.0)),
    ]


def test_rows_by_hand(two_seeds: list[Run]) -> None:
    comparison = compare_runs(two_seeds)
    single, vanilla = comparison.rows
    assert (single.label, single.budgets, single.seeds) == ("single", (), (0, 1))
    assert (vanilla.label, vanilla.budgets, vanilla.seeds) == ("vanilla", ("4GMAdds",), (0, 1))
    assert single.costs == {"madds": Spread(6e9, 0.0)}
    assert vanilla.costs == {"madds": Spread(4e9, 0.0)}
    gain = vanilla.delta_m_percent
    assert gain is not None
    assert gain.mean == pytest.approx(-2.5)
    assert gain.deviation == pytest.approx(25 / math.sqrt(2))  # of two values: their difference over the root of 2
    depth = vanilla.metrics["depth"]["rmse_m"]
    assert depth == Spread(pytest.approx(1.5), pytest.approx(1.4 / math.sqrt(2)))
    assert vanilla.metrics["seg"]["pixel_accuracy"] == Spread(0.5, 0.0)
    assert (comparison.size, comparison.images, comparison.notes) == ((8, 8), 5, ())


def test_one_seed_has_no_deviation_and_a_seed_without_singles_takes_the_mean_of_the_others(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, Method.SINGLE, 0, (0.4, 1.0)),
        run_of(tmp_path, Method.SINGLE, 1, (0.6, 3.0)),
        run_of(tmp_path, Method.RANDOM, 7, (0.5, 1.0)),  # the mean is 0.5 and 2: 0 and +50 %
    ]
    comparison = compare_runs(runs)
    assert comparison.rows[1].delta_m_percent == Spread(pytest.approx(25.0), None)
    assert comparison.notes == ("seed 7 has no single-task networks: Delta_m is relative to the mean of other seeds",)


def test_networks_that_a_run_trained_beside_its_own_count_once(two_seeds: list[Run]) -> None:
    measure(two_seeds[0], "separate", (0.5, 2.0))  # as the single run of seed 0 has it
    measure(two_seeds[0], "shared", (0.3, 3.0))
    comparison = compare_runs(two_seeds)
    assert [(row.label, row.seeds) for row in comparison.rows] == [
        ("single", (0, 1)),
        ("shared", (0,)),
        ("vanilla", (0, 1)),
    ]
    assert comparison.rows[1].costs == {"madds": Spread(3e9, None)}
    assert not comparison.notes
    measure(two_seeds[2], "separate", (0.45, 1.0))  # another number for seed 1 is told, not averaged in
    (note,) = compare_runs(two_seeds).notes
    assert "separate" in note
    assert "other numbers" in note


def test_without_singles_there_is_no_gain(tmp_path: Path) -> None:
    comparison = compare_runs([run_of(tmp_path, Method.VANILLA, 0, (0.4, 2.0))])
    assert comparison.rows[0].delta_m_percent is None
    assert "--method single" in comparison.notes[0]
    with pytest.raises(UsageError, match="no network has a Delta_m"):
        draw_pareto(comparison, tmp_path / "p.png")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        draw_pareto(comparison, tmp_path / "p.jpg")


def test_a_metric_without_any_label_is_missing_not_zero(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, Method.SINGLE, 0, (0.5, None)), run_of(tmp_path, Method.SHARED, 0, (0.4, None))]
    comparison = compare_runs(runs)
    assert comparison.rows[1].metrics["depth"]["rmse_m"] is None
    assert comparison.rows[1].delta_m_percent is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_fingerprint": "two", "data": "there"}, "different data; numbers of different here and there"),
        ({"tasks": [TASKS[0].to_json()]}, "different tasks: seg, depth and seg"),
        ({"deploy_size": (16, 8)}, "different deployed size: 8x8 and 16x8"),
        ({"size": [4, 4]}, r"measured at different sizes \(\[8, 8\] and \[4, 4\]\)"),
        ({"images": 6}, "measured on different numbers of images"),
        ({"metric": "max_f"}, "measured by max_f on 'seg', and miou is compared; measure it again"),
    ],
)
def test_unlike_runs_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    runs = [run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0)), run_of(tmp_path, Method.SHARED, 0, (0.4, 2.0), **changes)]
    with pytest.raises(UsageError, match=said):
        compare_runs(runs)


def test_of_all_runs_those_like_the_last_are_compared(tmp_path: Path) -> None:
    for changes in ({}, {"data_fingerprint": "two"}, {"deploy_size": (16, 8)}, {}):
        run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0), **changes)
    kept, notes = alike_the_last(measured_runs(all_runs(tmp_path)))
    assert [run.name for run in kept] == ["001-single", "004-single"]
    assert notes == [
        "left out, because data, tasks or size are not those of 004-single: 002-single, 003-single",
    ]


def test_another_weight_of_a_loss_is_no_other_metric(tmp_path: Path) -> None:
    heavier = [{**task.to_json(), "loss_weight": 3.0} for task in TASKS]
    runs = [
        run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0)),
        run_of(tmp_path, Method.SHARED, 0, (0.4, 2.0), tasks=heavier),
    ]
    assert len(compare_runs(runs).rows) == 2


def test_different_training_is_told(tmp_path: Path) -> None:
    longer = PRESETS[Preset.QUICK].train.model_copy(update={"steps": 9})
    runs = [
        run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0)),
        run_of(tmp_path, Method.SHARED, 0, (0.4, 2.0), train=longer),
    ]
    assert compare_runs(runs).notes == (
        "trained differently: steps is 150 in 001-single, 9 in 002-shared",
        "not trained equally long, updates of weights in all, searches included, 9: shared; 150: single",
    )


def test_searches_that_differ_in_more_than_the_seed_are_apart(tmp_path: Path) -> None:
    quick = PRESETS[Preset.QUICK].search
    sampled = quick.model_copy(update={"estimator": Estimator.SAMPLED, "weight_steps": 30})
    runs = [
        run_of(tmp_path, Method.BRANCHED, 0, (0.5, 1.0)),
        run_of(tmp_path, Method.BRANCHED, 1, (0.3, 1.0), search=sampled),
        run_of(tmp_path, Method.BRANCHED, 2, (0.7, 1.0)),
    ]
    rows = {row.label: row for row in compare_runs(runs).rows}
    first, second = (
        "branched (weight steps 18, estimator soft)",
        "branched (weight steps 30, estimator sampled)",
    )
    assert {label: row.seeds for label, row in rows.items()} == {first: (0, 2), second: (1,)}
    miou = rows[first].metrics["seg"]["miou"]
    assert miou is not None
    assert miou.mean == pytest.approx(0.6)
    # What a search was like is nothing to a baseline.
    shared = [run_of(tmp_path, Method.SHARED, s, (0.5, 1.0), search=q) for s, q in enumerate((quick, sampled))]
    assert [(row.label, row.seeds) for row in compare_runs(shared).rows] == [("shared", (0, 1))]


def bench(run: Run, device: str, milliseconds: float) -> None:
    result = {"network": "found", "runtime": "onnxruntime 1", "provider": "cpu", "samples": 9}
    timed = {"median_ms": milliseconds, "p90_ms": milliseconds, "spread": 0.1}
    content = {"schema_version": 1, "device": {"cpu": device}, "threads": 1, "results": [{**result, **timed}]}
    write_json(run.path / "bench.json", content)


def test_latencies_of_one_device_are_averaged_and_of_two_left_out(two_seeds: list[Run]) -> None:
    bench(two_seeds[0], "board", 10.0)
    bench(two_seeds[2], "board", 14.0)
    comparison = compare_runs(two_seeds)
    assert comparison.rows[1].latency_ms == Spread(12.0, pytest.approx(4 / math.sqrt(2)))
    bench(two_seeds[2], "desktop", 1.0)
    comparison = compare_runs(two_seeds)
    assert comparison.rows[1].latency_ms is None
    assert comparison.notes == (
        "latencies of 001-vanilla and 003-vanilla come from different devices, providers or numbers of threads and are left out",
    )


def test_a_device_is_told_by_its_key_where_there_is_one(two_seeds: list[Run]) -> None:
    def keyed(run: Run, key: str, device: str, runtime: str = "onnxruntime 1.20.0") -> None:
        bench(run, device, 10.0)
        path = run.path / "bench.json"
        content = json.loads(path.read_text())
        content["results"][0]["runtime"] = runtime
        write_json(path, {**content, "device_key": key})

    def latencies() -> Spread | None:
        return compare_runs(two_seeds).rows[1].latency_ms

    keyed(two_seeds[0], "ab12", "board with 30.0 GiB")
    keyed(two_seeds[2], "ab12", "board with 30.1 GiB")
    assert latencies() == Spread(10.0, 0.0)
    keyed(two_seeds[2], "cd34", "board with 30.0 GiB")
    assert latencies() is None
    keyed(two_seeds[2], "ab12", "board with 30.0 GiB", "onnxruntime 1.21.0")
    assert latencies() is None


def test_of_two_equal_networks_the_one_with_a_latency_is_shown(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, Method.SHARED, 0, (0.5, 1.0)) for _ in range(2)]
    bench(runs[1], "board", 5.0)
    (row,) = compare_runs(runs).rows
    assert row.latency_ms == Spread(5.0, None)


def test_a_run_that_was_not_measured_is_told_and_its_settings_are_of_no_interest(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0)),
        run_of(tmp_path, Method.SHARED, 0, (0.4, 2.0), train=PRESETS[Preset.PAPER].train),
    ]
    (runs[1].network("found") / "metrics.json").unlink()
    comparison = compare_runs(runs)
    assert [row.label for row in comparison.rows] == ["single"]
    assert comparison.notes == ("002-shared has no measured network and is left out",)


def test_nothing_measured_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        compare_runs([])
    run = run_of(tmp_path, Method.SINGLE, 0, (0.5, 2.0))
    (run.network("found") / "metrics.json").unlink()
    with pytest.raises(UsageError, match="bmtas train"):
        compare_runs([run])


@pytest.fixture
def comparison(two_seeds: list[Run]) -> Comparison:
    write_json(
        two_seeds[0].path / "bench.json",
        {
            "schema_version": 1,
            "results": [
                {"network": "found", "runtime": "pytorch", "median_ms": 90.0},
                {
                    "network": "found",
                    "runtime": "onnxruntime 1",
                    "provider": "cpu",
                    "samples": 9,
                    "median_ms": 12.34,
                    "p90_ms": 13,
                    "spread": 0.1,
                },
            ],
        },
    )
    return compare_runs(two_seeds[:2])


def test_markdown(comparison: Comparison) -> None:
    lines = to_markdown(comparison).splitlines()
    assert (
        lines[0]
        == "| network | budget | seeds | MAdds | ms | seg miou \u2191 | depth rmse_m \u2193 | Delta_m % \u2191 |"
    )
    assert lines[2] == "| single |  | 1 | 6.00 GMAdds | - | 0.5000 | 2.00 | +0.00 |"
    assert lines[3] == "| vanilla | 4GMAdds | 1 | 4.00 GMAdds | 12.3 | 0.4000 | 2.20 | -15.00 |"
    assert lines[5] == "Metrics on 5 validation images at 8x8."


def test_latex_escapes_what_it_must(two_seeds: list[Run]) -> None:
    text = to_latex(compare_runs(two_seeds))
    assert r"depth rmse\_m $\downarrow$" in text
    assert r"Delta\_m \% $\uparrow$ \\" in text
    assert r"vanilla & 4GMAdds & 2 & 4.00 GMAdds & 0.4000 $\pm$ 0.0000 & 1.50 $\pm$ 0.99 & -2.50 $\pm$ 17.68 \\" in text
    assert text.count("&") == 3 * 6  # seven columns, three lines


def test_csv_holds_every_number(comparison: Comparison) -> None:
    single, vanilla = csv.DictReader(io.StringIO(to_csv(comparison)))
    assert (vanilla["network"], vanilla["backbone"], vanilla["budget"], vanilla["seeds"]) == (
        "vanilla",
        "toy",
        "4GMAdds",
        "0",
    )
    assert float(vanilla["madds"]) == 4e9
    assert float(vanilla["latency_ms"]) == 12.34
    assert float(vanilla["seg.pixel_accuracy"]) == 0.5
    assert float(vanilla["delta_m_percent"]) == pytest.approx(-15)
    assert single["latency_ms"] == vanilla["delta_m_percent.deviation"] == ""


def test_json_can_be_written_and_read(two_seeds: list[Run]) -> None:
    data = json.loads(json.dumps(to_json(compare_runs(two_seeds)), allow_nan=False))
    assert data["schema_version"] == 1
    assert [n["delta_m_percent"] for n in data["networks"] if n["label"] == "vanilla"] == pytest.approx([-15.0, 10.0])
    assert data["rows"][1]["delta_m_percent"]["mean"] == pytest.approx(-2.5)


def test_the_picture_is_one(two_seeds: list[Run], tmp_path: Path) -> None:
    draw_pareto(compare_runs(two_seeds), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300

"""What is measured: real files in real runtimes, and what the report says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bmtas.errors import BuildError, UsageError
from export.bench.measure import bench
from export.bench.options import BenchOptions, parse_numbers, parse_threads, parse_warmup
from export.bench.report import SCHEMA_VERSION, Report, read_report
from export.bench.tables import header, rows
from export.interface import Interface
from export.machine.identity import device_key
from export.openvino_file import write_openvino
from export.stages.schedule import Schedule
from tests.export.bench.conftest import rules
from tests.export.branched import branched
from tests.export.stages_tree import NAMES


def test_a_file_from_its_picture_to_its_predictions(tree_files: Path, quick: BenchOptions, tmp_path: Path) -> None:
    path = tree_files / "model.onnx"
    report = bench({"tree": path}, options=quick, command="bmtas bench model.onnx")
    (found,) = report.results
    assert (found.key, found.network, found.provider) == ("tree/onnxruntime", "tree", "CPUExecutionProvider")
    assert (found.tasks, found.input_shape, found.bytes) == (list(NAMES), [1, 3, 64, 64], path.stat().st_size)
    assert found.costs == {"madds": 1.0}
    assert len(found.compute.latencies_ms) == found.compute.samples == 12
    assert found.compute.median_ms == pytest.approx(np.median(found.compute.latencies_ms))
    assert found.end_to_end is not None
    # Each call gives both, and what holds the other is longer.
    pairs = zip(found.end_to_end.latencies_ms, found.compute.latencies_ms, strict=True)
    assert all(whole > compute for whole, compute in pairs)
    assert found.preprocessing is not None
    assert found.postprocessing is not None
    assert "NumPy" in found.preprocessing
    assert "semseg argmax over channels" in found.postprocessing
    assert report.device.cpu.usable > 0
    assert report.conditions.samples > 0
    written = tmp_path / "bench.json"
    written.write_text(json.dumps(report.to_json()))
    assert read_report(written) == report
    assert report.to_json()["schema_version"] == SCHEMA_VERSION
    assert report.device_key == device_key(report.device)


def test_what_cannot_be_had_says_so_and_is_never_zero(tree_files: Path, quick: BenchOptions) -> None:
    (found,) = bench({"tree": tree_files / "model.onnx"}, options=quick).results
    if found.energy.gross_mj is None:
        assert found.energy.unavailable
        assert found.energy.net_mj is None
    else:
        assert all(mj > 0 for mj in found.energy.gross_mj.values())
    assert found.compute.percentiles["p90"].value_ms is None  # of twelve samples


def test_a_foreign_file_has_compute_alone(quick: BenchOptions, tmp_path: Path) -> None:
    onnx.save(branched(), tmp_path / "foreign.onnx")
    (found,) = bench({"foreign": tmp_path / "foreign.onnx"}, options=quick).results
    assert found.end_to_end is None
    assert found.end_to_end_unavailable == "the file does not say how its input is made and its outputs are read"
    assert found.compute.samples == 12


def test_several_files_and_threads_in_turn(tree_files: Path, quick: BenchOptions, tmp_path: Path) -> None:
    write_openvino(onnx.load(tree_files / "model.onnx"), tmp_path / "model.openvino")
    files = {"ort": tree_files / "model.onnx", "ov": tmp_path / "model.openvino"}
    report = bench(files, options=replace(quick, threads=(1, 2)))
    keys = [f"{name}/{t} threads" for t in (1, 2) for name in ("ort/onnxruntime", "ov/openvino")]
    assert [r.key for r in report.results] == keys
    assert [r.threads for r in report.results] == [1, 1, 2, 2]
    assert [(r.first, r.second) for r in report.ratios] == [(key, keys[0]) for key in keys[1:]]
    one, other = (np.median(report.results[i].compute.latencies_ms) for i in (1, 0))
    assert report.ratios[0].ratio == pytest.approx(one / other)
    assert header(report)[:4] == ["network", "runtime", "threads", "samples"]  # what differs between rows
    assert [row["threads"] for row in rows(report)] == ["1", "1", "2", "2"]


@pytest.mark.slow
def test_the_batch_of_a_file_whose_batch_is_free(
    exported: Callable[..., Any], quick: BenchOptions, tmp_path: Path
) -> None:
    onnx.save(exported(Interface("uint8", "predictions", ("batch",))), tmp_path / "free.onnx")
    report = bench({"free": tmp_path / "free.onnx"}, options=replace(quick, batch=3))
    (found,) = report.results
    assert found.input_shape == [3, 32, 48, 3]
    assert (found.preprocessing, found.postprocessing) == ("in the graph", "in the graph")
    assert report.notes == ["latencies are of a batch of 3 images"]
    onnx.save(exported(Interface(dynamic=("size",))), tmp_path / "size.onnx")
    (sized,) = bench({"size": tmp_path / "size.onnx"}, options=quick).results
    assert sized.input_shape == [1, 3, 32, 48]  # what the file names


def test_a_fixed_batch_is_not_changed(tree_files: Path, quick: BenchOptions) -> None:
    with pytest.raises(UsageError, match=r"a batch of 1, which is fixed in it.*--dynamic batch"):
        bench({"tree": tree_files / "model.onnx"}, options=replace(quick, batch=4))


def test_rates_of_tasks_give_the_average_and_the_worst_frame(tree_files: Path, quick: BenchOptions) -> None:
    rates = Schedule.parse({"semseg": "1", "depth": "1/2", "scene": "1/3"})
    (found,) = bench({"tree": tree_files / "model.stages"}, options=replace(quick, rates=rates)).results
    assert found.frames is not None
    # semseg every frame; depth in frames 0, 2, 4; scene begins one frame later: 1, 4.
    due = [
        ["semseg", "depth"],
        ["semseg", "scene"],
        ["semseg", "depth"],
        ["semseg"],
        ["semseg", "depth", "scene"],
        ["semseg"],
    ]
    assert [frame.tasks for frame in found.frames.cycle] == due
    medians = [frame.median_ms for frame in found.frames.cycle]
    assert found.frames.average_ms == pytest.approx(np.mean(medians))
    assert found.frames.worst_ms == max(medians) == medians[found.frames.worst_frame]
    assert found.compute.samples == 12  # cycles, each an average frame


EMPTY = "tree/onnxruntime: in 4 of every 5 frames no task is due; they are in no number"


def test_frames_in_which_no_task_is_due_are_in_no_number(tree_files: Path, quick: BenchOptions) -> None:
    options = replace(quick, rates=Schedule.parse({"semseg": "1/5"}))
    report = bench({"tree": tree_files / "model.stages"}, options=options)
    (found,) = report.results
    assert found.frames is not None
    assert found.frames.empty == 4
    assert [frame.tasks for frame in found.frames.cycle] == [["semseg"], [], [], [], []]
    only, *others = (frame.median_ms for frame in found.frames.cycle)
    assert others == [None] * 4
    assert only == found.frames.average_ms == found.frames.worst_ms == found.compute.median_ms
    assert EMPTY in report.notes


def test_at_a_pace_too_frames_without_a_task_are_left_out(tree_files: Path, quick: BenchOptions) -> None:
    options = replace(quick, rates=Schedule.parse({"semseg": "1/5"}), fps=40.0, rules=rules(20))
    report = bench({"tree": tree_files / "model.stages"}, options=options)
    (found,) = report.results
    assert found.paced is not None
    begun = 20 - found.paced.dropped
    assert found.compute.samples == found.paced.latency.samples == math.ceil(begun / 5)
    assert min(found.compute.latencies_ms) > 0
    assert found.end_to_end is not None
    assert found.end_to_end.samples == found.compute.samples
    pairs = zip(found.paced.latency.latencies_ms, found.compute.latencies_ms, strict=True)
    assert all(latency > compute for latency, compute in pairs)
    assert EMPTY in report.notes
    # Frame 0 is the only one of five in which depth runs; with one of warm-up none is left.
    warm = replace(options, rules=replace(rules(3), warmup_s=0.02))
    with pytest.raises(UsageError, match="in none of the 3 measured frames was a task due"):
        bench({"tree": tree_files / "model.stages"}, options=warm)


def test_rates_are_for_stages(tree_files: Path, quick: BenchOptions) -> None:
    options = replace(quick, rates=Schedule.parse({"semseg": "1"}))
    with pytest.raises(UsageError, match="--split-at-branches"):
        bench({"tree": tree_files / "model.onnx"}, options=options)
    with pytest.raises(UsageError, match="no task 'sem'"):
        bench({"t": tree_files / "model.stages"}, options=replace(quick, rates=Schedule.parse({"sem": "1"})))


def test_frames_at_a_pace(tree_files: Path, quick: BenchOptions) -> None:
    report = bench({"tree": tree_files / "model.onnx"}, options=replace(quick, fps=40.0, rules=rules(20)))
    (found,) = report.results
    assert found.paced is not None
    assert found.paced.latency.samples + found.paced.dropped == 20
    assert found.answers is found.paced.latency
    assert found.compute.samples == found.paced.latency.samples
    # From the due time, waking up included, so never shorter than what was computed in that frame.
    pairs = zip(found.paced.latency.latencies_ms, found.compute.latencies_ms, strict=True)
    assert all(latency > compute for latency, compute in pairs)
    assert report.ratios == []
    assert "misses" in header(report)


def test_what_each_task_costs(tree_files: Path, quick: BenchOptions) -> None:
    files = {"file": tree_files / "model.onnx", "stages": tree_files / "model.stages"}
    report = bench(files, options=replace(quick, marginal=True))
    assert [m.key for m in report.marginal] == ["file/onnxruntime", "stages/onnxruntime"]
    for margins in report.marginal:
        assert list(margins.tasks) == list(NAMES)
        for task in margins.tasks.values():
            assert task.without_ms is not None
            assert task.marginal_ms == pytest.approx(margins.all_ms - task.without_ms)
        left = margins.all_ms - sum(task.marginal_ms for task in margins.tasks.values())
        assert margins.shared_ms == pytest.approx(left)


@pytest.mark.slow
def test_pytorch_s_program_runs_in_a_worker(
    tmp_path: Path, quick: BenchOptions, tiny_network: Any, tree: Any, every_kind: Any
) -> None:
    from export.metadata import describe
    from export.program import write_program

    about = describe(tree, every_kind, (32, 48), {"madds": 7.0}, Interface())
    path = tmp_path / "model.pt2"
    write_program(tiny_network, path, tasks=every_kind, size=(32, 48), interface=Interface(), metadata=about)
    (found,) = bench({"program": path}, options=quick).results
    assert found.key == "program/torch.export"
    assert found.compute.samples == 12
    assert found.end_to_end is not None
    path.write_bytes(b"nothing")
    with pytest.raises(BuildError, match=r"cannot be loaded by torch\.export"):
        bench({"program": path}, options=quick)


def test_a_report_of_another_schema_is_refused(tmp_path: Path, report: Callable[..., Report]) -> None:
    told = report({"a/onnxruntime": [1.0] * 20}).to_json()
    path = tmp_path / "bench.json"
    for change, said in (
        ({"schema_version": 1}, "follows schema 1.*measure again"),
        ({"schema_version": 3}, "upgrade bmtas"),
        ({"results": []}, "results: .*at least 1 item"),
        ({"colour": "red"}, "colour"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(UsageError, match=said):
            read_report(path)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_threads, "1,x"),
        (parse_threads, "-1"),
        (parse_warmup, "soon"),
        (parse_warmup, "-1"),
        (parse_warmup, "inf"),
        (lambda text: parse_numbers(text, "--percentiles"), "50;90"),
        (lambda text: parse_numbers(text, "--percentiles"), "50,nan"),
        (lambda text: BenchOptions(fps=float(text)), "nan"),
        (lambda text: BenchOptions(fps=float(text)), "inf"),
        (lambda text: rules(None, time_cap_s=float(text)), "nan"),
        (lambda text: rules(None, time_cap_s=float(text)), "inf"),
    ],
)
def test_what_is_no_number_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse(text)


def test_options_as_they_are_written() -> None:
    assert parse_threads("2, 1,2") == (2, 1)
    assert (parse_warmup("auto"), parse_warmup("3"), parse_warmup("1.5s")) == (None, 3.0, 1.5)
    assert parse_numbers("50,99.9", "--percentiles") == (50.0, 99.9)
    short = rules(None, time_cap_s=1.6)
    assert short.window_s == pytest.approx(0.1)  # so that twice the eight windows that are needed fit
    assert short.most_warmup_s == pytest.approx(1.6 / 3)

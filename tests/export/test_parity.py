"""The proof of an export: what it measures, by hand, and that it catches a file that computes something else."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bmtas.errors import ParityError, UsageError
from bmtas.tasks import Task, TaskKind
from export.proof.compare import compare, pairs, require_parity
from export.proof.limits import Limit, limits_for, parse_tolerances
from export.proof.report import proof_text, worst_text
from export.proof.units import build_unit, final_prediction

SEMSEG = Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c"))
DEPTH = Task(name="depth", kind=TaskKind.DEPTH)
EDGE = Task(name="edge", kind=TaskKind.EDGE)
NORMALS = Task(name="normals", kind=TaskKind.NORMALS)


def one_hot(ids: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[ids].T.reshape(1, 3, 1, len(ids))


def value_of(task: Task, reference: np.ndarray, value: np.ndarray) -> float:
    report = compare([({task.name: reference}, {task.name: value})], [task], {task.name: Limit(0, None)})
    return float(report["tasks"][task.name]["value"])


def test_pixels_that_change_class_are_counted() -> None:
    assert value_of(SEMSEG, one_hot([0, 1, 2, 1]), one_hot([0, 1, 1, 1])) == 0.25


def test_normals_differ_by_the_angle_between_them() -> None:
    tilted = np.radians(30)
    reference = np.array([[0, 0, -2.0], [0, 0, -1]]).T.reshape(1, 3, 1, 2)
    value = np.array([[np.sin(tilted), 0, -np.cos(tilted)], [0, 0, -9]]).T.reshape(1, 3, 1, 2)
    assert value_of(NORMALS, reference, value) == pytest.approx(15)


def test_tiny_angles_are_not_lost_to_rounding() -> None:
    tilted = np.radians(1e-6)
    reference = np.array([0, 0, 1.0]).reshape(1, 3, 1, 1)
    value = np.array([np.sin(tilted), 0, np.cos(tilted)]).reshape(1, 3, 1, 1)
    assert value_of(NORMALS, reference, value) == pytest.approx(1e-6, rel=1e-6)


def test_depth_differs_relative_to_the_depth() -> None:
    assert value_of(DEPTH, np.array([[1.0, 3.0]]), np.array([[1.5, 2.9]])) == pytest.approx(0.6 / 4)
    assert value_of(DEPTH, np.zeros((1, 2)), np.zeros((1, 2))) == 0


def test_what_has_no_number_is_told_as_none_and_fails() -> None:
    report = compare(
        [({"depth": np.zeros((1, 2))}, {"depth": np.ones((1, 2))})], [DEPTH], {"depth": Limit(9, None)}
    )  # relative to nothing
    assert report["tasks"]["depth"]["value"] is None
    with pytest.raises(ParityError, match="relative depth not a finite number"):
        require_parity(report)
    assert worst_text(report) == "depth: not a finite number relative depth"


def test_edges_are_compared_by_their_f_measure() -> None:
    # Positive at 0.5 are raw values of at least 0: 3 in the reference, 2 in the file, 1 in both: 2 * 1 / 5.
    reference, value = np.array([[1.0, 2, 3, -1]]), np.array([[1.0, -2, -3, 1]])
    assert value_of(EDGE, reference, value) == pytest.approx(0.4)
    assert value_of(EDGE, -np.ones((1, 4)), -np.ones((1, 4))) == 1


def test_a_map_without_a_positive_pixel_proves_nothing_by_its_f_measure() -> None:
    # Probabilities 1/4 in the reference and 1/10 in the file: not a pixel is positive, and they are 0.15 apart everywhere.
    reference, value = np.full((1, 1, 2, 4), math.log(1 / 3)), np.full((1, 1, 2, 4), math.log(1 / 9))
    for precision in ("fp32", "fp16", "bf16", "int8"):
        limits = limits_for(precision, [EDGE])
        limits["edge"] = Limit(limits["edge"].unit, None, limits["edge"].probability)
        report = compare([({"edge": reference}, {"edge": value})], [EDGE], limits)
        entry = report["tasks"]["edge"]
        assert (entry["value"], entry["positives"]) == (1, 0)
        assert entry["probability_difference"] == pytest.approx(0.15)
        assert not report["passed"], precision
    with pytest.raises(ParityError, match=r"probabilities 0\.15 apart in the mean \(limit 0\.1\)"):
        require_parity(report)
    assert worst_text(report) == "edge: 1 F-measure against PyTorch's map, probabilities 0.15 apart"


def test_both_the_f_measure_and_the_probabilities_must_hold() -> None:
    # One positive pixel of 1000, at 0.6 in the reference and 0.4 in the file: the mean hardly moves, the F-measure is 0.
    reference, value = np.zeros((1, 1000)), np.zeros((1, 1000))
    reference[0, 0], value[0, 0] = 0.6, 0.4
    limit = {"edge": Limit(0.6, None, 0.1)}
    entry = compare([({"edge": reference}, {"edge": value})], [EDGE], limit, final=True)["tasks"]["edge"]
    assert entry["probability_difference"] == pytest.approx(0.2 / 1000)
    assert entry["positives"] == 0.001
    assert (entry["value"], entry["passed"]) == (0, False)
    value[0, 0] = 0.5
    assert compare([({"edge": reference}, {"edge": value})], [EDGE], limit, final=True)["passed"]


def test_other_kinds_have_no_probabilities() -> None:
    report = compare([({"depth": np.ones((1, 2))}, {"depth": np.ones((1, 2))})], [DEPTH], limits_for("fp32", [DEPTH]))
    assert {"probability_difference", "positives"}.isdisjoint(report["tasks"]["depth"])
    assert limits_for("int8", [DEPTH, NORMALS, SEMSEG])["depth"].probability is None


def test_numbers_are_over_all_images() -> None:
    outputs = [
        ({"semseg": one_hot([0, 0])}, {"semseg": one_hot([0, 0])}),
        ({"semseg": one_hot([1, 1])}, {"semseg": one_hot([2, 1])}),
    ]
    report = compare(outputs, [SEMSEG], {"semseg": Limit(1, None)})
    assert report["images"] == 2
    assert report["tasks"]["semseg"]["value"] == 0.25


def test_raw_errors_are_told_as_maximum_and_percentile() -> None:
    reference = np.zeros((1, 1, 50, 40))
    value = reference.copy()
    value.flat[:2] = (
        0.5,
        0.25,
    )  # 2000 numbers: 99.9 % of them are at most the third largest, one in a thousand is above
    entry = compare([({"depth": reference}, {"depth": value})], [DEPTH], {"depth": Limit(9, 1.0)})["tasks"]["depth"]
    assert entry["max_abs_difference"] == 0.5
    assert entry["p999_abs_difference"] == pytest.approx(np.sort(value.ravel())[int(np.ceil(0.999 * 1999))])
    assert entry["max_abs_output"] == 0


def test_the_raw_limit_is_relative_to_the_largest_output() -> None:
    reference, value = np.array([[100.0, 0]]), np.array([[100.005, 0]])
    report = compare([({"depth": reference}, {"depth": value})], [DEPTH], {"depth": Limit(1, 1e-4)})
    assert report["passed"]
    assert report["tasks"]["depth"]["max_scaled_difference"] == pytest.approx(5e-5)
    assert not compare([({"depth": reference}, {"depth": value})], [DEPTH], {"depth": Limit(1, 1e-5)})["passed"]


def test_another_network_is_refused_and_the_task_named() -> None:
    same, other = np.ones((1, 4)), np.full((1, 4), 1.01)
    report = compare(
        [({"depth": same, "edge": same}, {"depth": other, "edge": same})],
        [DEPTH, EDGE],
        limits_for("fp32", [DEPTH, EDGE]),
    )
    assert not report["tasks"]["depth"]["passed"]
    assert report["tasks"]["edge"]["passed"]
    with pytest.raises(ParityError, match=r"depth differs: relative depth 0\.01 \(limit 0\.001\)") as caught:
        require_parity(report)
    assert caught.value.exit_code == 5
    assert "edge" not in str(caught.value)


def outputs_of(task: Task) -> np.ndarray:
    """Some output of any task, 12 numbers."""
    return np.linspace(-1, 1, 12).reshape(1, 3, 2, 2) if task.channels == 3 else np.linspace(0, 1, 12).reshape(1, 12)


@pytest.mark.parametrize("task", [SEMSEG, DEPTH, EDGE, NORMALS], ids=lambda task: task.name)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["file", "network", "both"])
def test_outputs_that_are_no_numbers_are_refused(task: Task, broken: float, side: str) -> None:
    reference, value = outputs_of(task), outputs_of(task)
    if side != "file":
        reference.flat[[1, 5]] = broken
    if side != "network":
        value.flat[[1, 5]] = broken
    worthless = {task.name: Limit(0 if task is EDGE else 1e9, 1e9, 1e9)}
    report = compare([({task.name: reference}, {task.name: value})], [task], worthless)
    entry = report["tasks"][task.name]
    assert (entry["reference_not_finite"], entry["not_finite"]) == (2 * (side != "file"), 2 * (side != "network"))
    json.dumps(report, allow_nan=False)
    wanted = "2 values not finite" if side == "file" else "the trained network itself gives 2 values that are NaN"
    with pytest.raises(ParityError, match=wanted):
        require_parity(report)
    assert task.name in worst_text(report)


def test_no_image_is_no_proof() -> None:
    with pytest.raises(ParityError, match=r"no image.*Nothing was written; what was there before stays"):
        require_parity(compare([], [EDGE], limits_for("fp32", [EDGE])))


def test_an_output_that_is_missing_or_of_another_shape_is_refused() -> None:
    ones = np.ones((1, 4))
    with pytest.raises(ParityError, match="no output 'edge'"):
        compare([({"edge": ones}, {"depth": ones})], [EDGE], limits_for("fp32", [EDGE]))
    with pytest.raises(ParityError, match=r"\(1, 4\).*\(1, 5\)"):
        compare([({"edge": ones}, {"edge": np.ones((1, 5))})], [EDGE], limits_for("fp32", [EDGE]))


def test_final_outputs_are_compared_as_they_are() -> None:
    ids = np.array([[[0, 1, 2, 2]]], dtype=np.int32)
    report = compare(
        [({"semseg": ids}, {"semseg": ids + np.array([0, 0, 0, 1])})], [SEMSEG], {"semseg": Limit(0.25, 0)}, final=True
    )
    assert report["tasks"]["semseg"]["value"] == 0.25
    assert report["passed"]  # the raw limit means nothing for class ids
    assert "max_abs_difference" not in report["tasks"]["semseg"]


def test_pairs_run_both_sides_on_each_image() -> None:
    found = list(pairs(lambda x: {"a": x}, lambda x: {"a": 2 * x}, [np.array([1]), np.array([3])]))
    assert [(int(a["a"][0]), int(b["a"][0])) for a, b in found] == [(1, 2), (3, 6)]


def test_final_predictions_follow_their_definitions() -> None:
    raw = np.array([0.3, 2.0, -1.0]).reshape(1, 3, 1, 1)
    assert final_prediction(TaskKind.SEGMENTATION, raw).tolist() == [[[1]]]
    assert final_prediction(TaskKind.EDGE, np.array([np.log(3)])) == pytest.approx(0.75)
    length = np.sqrt(0.09 + 4 + 1)
    np.testing.assert_allclose(final_prediction(TaskKind.NORMALS, raw).ravel(), np.array([0.3, 2, -1]) / length)
    np.testing.assert_array_equal(final_prediction(TaskKind.DEPTH, raw), raw)


def test_every_kind_has_a_unit() -> None:
    names = {kind: build_unit(kind).name for kind in TaskKind}
    assert names[TaskKind.CLASSIFICATION] == "share of images that change class"
    assert names[TaskKind.REGRESSION] == "relative difference"


def test_the_limit_of_probabilities_has_a_name_of_its_own() -> None:
    limits = limits_for("fp16", [SEMSEG, EDGE], parse_tolerances(["fp16:edge.probability=0.3", "edge=0.5"])[1])
    assert (limits["edge"].probability, limits["edge"].unit) == (0.3, 0.5)
    for wrong in ("semseg.probability=1", "edge.angle=1"):
        with pytest.raises(UsageError, match=r"TASK\.probability"):
            limits_for("fp16", [SEMSEG, EDGE], parse_tolerances([wrong])[1])


def test_limits_are_read_from_the_command_line() -> None:
    assert parse_tolerances(["1e-4", "semseg=0.01, edge=0.9"]) == (1e-4, {"semseg": 0.01, "edge": 0.9})
    assert parse_tolerances([" fp16 : semseg = 0.02"]) == (None, {"fp16:semseg": 0.02})
    for wrong in ("tight", "semseg=", "=0.1", "fp16:=0.1", ":edge=0.1", "fp16:0.1", ""):
        with pytest.raises(UsageError, match="PRECISION:TASK=NUMBER"):
            parse_tolerances([wrong])
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        parse_tolerances(["fp15:edge=0.1"])


def test_the_raw_limit_is_of_fp32_alone() -> None:
    assert limits_for("fp32", [DEPTH], scaled=1e-5) == {"depth": Limit(0.001, 1e-5)}
    assert limits_for("fp16", [DEPTH], scaled=1e-5) == {"depth": Limit(0.01, None)}
    with pytest.raises(UsageError, match="nan of all tasks"):
        limits_for("fp16", [DEPTH], scaled=math.nan)


def test_the_limit_of_one_precision_goes_before_that_of_all() -> None:
    for overrides in ({"edge": 0.9, "fp16:edge": 0.8}, {"fp16:edge": 0.8, "edge": 0.9}):
        assert limits_for("fp16", [EDGE, SEMSEG], overrides)["edge"] == Limit(0.8, None, 0.005)
        assert limits_for("bf16", [EDGE, SEMSEG], overrides)["edge"] == Limit(0.9, None, 0.02)
        assert limits_for("bf16", [EDGE, SEMSEG], overrides)["semseg"].unit == 0.04


def test_limits_that_cannot_be_are_refused_in_every_precision() -> None:
    with pytest.raises(UsageError, match="did you mean 'edge'"):
        limits_for("fp32", [EDGE], {"int8:edges": 1})
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        limits_for("fp32", [EDGE], {"int9:edge": 1})
    with pytest.raises(UsageError, match="-1 of task 'edge'"):
        limits_for("fp32", [EDGE], {"int8:edge": -1})
    with pytest.raises(UsageError, match="did you mean 'edge'"):
        limits_for("fp32", [EDGE], {"edges": 1})
    with pytest.raises(UsageError, match="known: bf16, fp16"):
        limits_for("fp8", [EDGE])
    with pytest.raises(UsageError, match="-1"):
        limits_for("fp32", [EDGE], {"edge": -1})


def test_a_proof_is_told_in_words_or_refused_where_it_is_damaged() -> None:
    report = compare(
        [({"depth": np.full((1, 2), 4.0)}, {"depth": np.full((1, 2), 5.0)})], [DEPTH], {"depth": Limit(1, 1)}
    )
    assert proof_text(report) == "depth: 0.25 relative depth\non 1 images"
    assert proof_text(None) == "not told"
    for damaged in ({}, {**report, "tasks": 3}, {**report, "tasks": {"depth": {"unit": "relative depth"}}}):
        with pytest.raises(UsageError, match="a proof is damaged at"):
            proof_text(damaged)

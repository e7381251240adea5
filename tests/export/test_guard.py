"""INT8 is kept only where it is faster beyond the noise and no task loses more than allowed; numbers by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind
from export.precision.guard import Drop, decide, drops, parse_max_drop
from export.stopwatch import ratio

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b")),  # mIoU, higher is better
    Task(name="depth", kind=TaskKind.DEPTH),  # RMSE, lower is better
)
FASTER = {"median": 1.5, "q1": 1.2, "q3": 1.8}


@pytest.mark.parametrize(
    ("text", "default", "by_task"),
    [
        ("1%", 0.01, {}),
        ("0%", 0, {}),
        (" 2.5 % ", 0.025, {}),
        ("semseg=2%,depth=0.5%", 0.01, {"semseg": 0.02, "depth": 0.005}),
        ("3%, depth = 0.5%", 0.03, {"depth": 0.005}),
    ],
)
def test_drops_are_read(text: str, default: float, by_task: dict[str, float]) -> None:
    read = parse_max_drop(text)
    assert read.default == pytest.approx(default)
    assert read.by_task == pytest.approx(by_task)


@pytest.mark.parametrize(
    "text",
    ["", "1", "0.01", "one%", "-1%", "nan%", "inf%", "=1%", "1%,2%", "depth=1%,depth=2%", "depth", "depth=", "1%,"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        parse_max_drop(text)


def test_a_limit_for_an_unknown_task_is_refused() -> None:
    parse_max_drop("depth=1%").require_known(TASKS)
    with pytest.raises(UsageError, match="did you mean 'depth'"):
        parse_max_drop("deph=1%").require_known(TASKS)


def test_a_drop_counts_in_the_direction_that_is_bad_for_the_metric() -> None:
    # mIoU 0.5 -> 0.49 loses 2 %; RMSE 0.8 -> 0.82 loses 2.5 %.
    assert drops({"semseg": 0.5, "depth": 0.8}, {"semseg": 0.49, "depth": 0.82}, TASKS) == pytest.approx(
        {"semseg": 0.02, "depth": 0.025}
    )
    assert drops({"semseg": 0.5, "depth": 0.8}, {"semseg": 0.51, "depth": 0.72}, TASKS) == pytest.approx(
        {"semseg": -0.02, "depth": -0.1}
    )
    assert drops({"semseg": 0.0, "depth": 0.0}, {"semseg": 0.0, "depth": 0.1}, TASKS) == {
        "semseg": 0,
        "depth": math.inf,
    }


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_metric_that_is_no_number_has_no_drop_and_is_not_passed(missing: float | None) -> None:
    for before, after in (({"semseg": missing, "depth": 1.0}, {"semseg": 0.5, "depth": 1.0}),) * 2:
        for a, b in ((before, after), (after, before)):
            lost = drops(a, b, TASKS)
            assert lost == {"semseg": None, "depth": 0}
            decision = decide(FASTER, lost, Drop(1.0))
            assert not decision.keep
            assert decision.reasons == ("semseg cannot be judged: its metric is missing or not a finite number",)
    assert drops({"depth": 1.0}, {"depth": 1.0}, TASKS)["semseg"] is None


def test_kept_where_faster_and_within_the_drop() -> None:
    decision = decide(FASTER, {"semseg": 0.01, "depth": -0.02}, parse_max_drop("1%"))
    assert decision.keep
    assert not decision.forced
    assert decision.reasons == (
        "1.50 times as fast as FP32 (lower quartile 1.20)",
        "semseg loses 1.00 % of its metric (may lose 1.00 %)",
        "depth gains 2.00 % of its metric (may lose 1.00 %)",
    )


def test_refused_where_the_gain_is_within_the_noise() -> None:
    # Rounds of 10 over 9, 10, 11, 12 ms: the ratios' quartiles are 0.85 and 1.08 by Python's rule, the median 0.95.
    speed = ratio([10, 10, 10, 10], [9, 10, 11, 12])
    decision = decide(speed, {"depth": 0.0}, Drop())
    assert not decision.keep
    assert decision.reasons == (
        "not reliably faster: 0.95 times as fast as FP32, lower quartile 0.85 (must be above 1)",
    )
    assert not decide({"median": 1.3, "q1": 1.0, "q3": 1.5}, {"depth": 0.0}, Drop()).keep
    assert not decide({"median": math.nan, "q1": math.nan, "q3": math.nan}, {"depth": 0.0}, Drop()).keep


def test_refused_where_one_task_loses_too_much_and_that_task_is_named() -> None:
    allowed = parse_max_drop("1%,depth=3%")
    assert decide(FASTER, {"semseg": 0.009, "depth": 0.029}, allowed).keep
    decision = decide(FASTER, {"semseg": 0.02, "depth": 0.029}, allowed)
    assert not decision.keep
    assert decision.reasons == ("semseg loses 2.00 % of its metric (allowed 1.00 %)",)
    # 0.5 -> 0.495 is one per cent, whatever floating point makes of it.
    assert decide(FASTER, drops({"semseg": 0.5}, {"semseg": 0.495}, TASKS[:1]), Drop(0.01)).keep


def test_forcing_keeps_it_and_says_against_what() -> None:
    slow = {"median": 0.9, "q1": 0.8, "q3": 1.0}
    decision = decide(slow, {"semseg": math.inf}, Drop(), forced=True)
    assert decision.keep
    assert decision.forced
    assert decision.reasons[0] == "kept because it was forced, although:"
    assert len(decision.reasons) == 3
    assert not decide(FASTER, {"semseg": 0.0}, Drop(), forced=True).forced  # nothing to force
    assert json.loads(json.dumps(decision.to_json(), allow_nan=False))["drops"] == {"semseg": "infinite"}


def test_no_metric_at_all_is_no_ground_for_a_decision() -> None:
    with pytest.raises(UsageError, match="no task has a metric"):
        decide(FASTER, {}, Drop())


def test_the_guard_needs_neither_torch_nor_onnx() -> None:
    program = "import sys; import export.precision.guard; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

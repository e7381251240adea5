"""What holds for the metrics of every kind: names, the one that Delta_m compares, and nothing where nothing is labelled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bmtas.metrics import build_metric
from bmtas.tasks import METRICS, TASK_SETS, Task, TaskKind

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
NAN = float("nan")
NAMES = {
    TaskKind.SEGMENTATION: ["miou", "miou_labelled", "miou_all", "miou_hit", "pixel_accuracy"],
    TaskKind.BINARY: ["max_iou", "max_f"],
    TaskKind.EDGE: ["ods_f", "max_f", "ods_threshold"],
    TaskKind.NORMALS: [
        "mean_angle_deg",
        "median_angle_deg",
        "within_11_25_deg",
        "within_22_5_deg",
        "within_30_deg",
    ],
    TaskKind.DEPTH: ["rmse_m", "rmse_per_image_m", "mean_abs_m", "mean_rel", "delta_1", "delta_2", "delta_3"],
    TaskKind.REGRESSION: ["rmse", "mean_abs"],
    TaskKind.CLASSIFICATION: ["top1", "top5"],
}


def batch(task: Task, *, labelled: bool) -> tuple[Tensor, Tensor]:
    """Return zeros as predictions and labels of two images, all valid or none."""
    prediction = torch.zeros(2, task.channels, 2, 2) if task.dense else torch.zeros(2, task.channels)
    labels = {
        TaskKind.NORMALS: torch.tensor([0.0, 0.0, float(labelled)]).view(1, 3, 1, 1).expand(2, 3, 2, 2),
        TaskKind.DEPTH: torch.full((2, 2, 2), 1.0 if labelled else NAN),
        TaskKind.REGRESSION: torch.full((2, 2, 2), 1.0 if labelled else NAN),
        TaskKind.CLASSIFICATION: torch.full((2,), 1 if labelled else -1),
    }
    return prediction, labels.get(task.kind, torch.full((2, 2, 2), 1 if labelled else 255, dtype=torch.uint8))


@pytest.mark.parametrize("kind", list(TaskKind))
@pytest.mark.parametrize("batches", [0, 1])
def test_without_a_valid_label_there_is_no_number(
    make_task: Callable[..., Task], measure: Callable[..., dict[str, float]], kind: TaskKind, batches: int
) -> None:
    found = measure(kind, *[batch(make_task(kind), labelled=False)] * batches)
    assert list(found) == NAMES[kind]
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("kind", list(TaskKind))
def test_batches_without_a_label_change_nothing(make_task: Callable[..., Task], kind: TaskKind) -> None:
    task = make_task(kind)
    metric = build_metric(task)
    metric.update(*batch(task, labelled=True))
    before = metric.compute()
    metric.update(*batch(task, labelled=False))
    assert list(before) == NAMES[kind]
    assert metric.compute() == before
    assert all(math.isfinite(value) for value in before.values())


def test_every_kind_has_a_metric_with_a_direction() -> None:
    assert {kind: name for kind, (name, _) in METRICS.items()} == {kind: names[0] for kind, names in NAMES.items()}
    lower = {kind for kind, (_, higher) in METRICS.items() if not higher}
    assert lower == {TaskKind.NORMALS, TaskKind.DEPTH, TaskKind.REGRESSION}
    assert Task(name="t", kind=TaskKind.EDGE).metric == "ods_f"


@pytest.mark.parametrize("name", list(TASK_SETS))
def test_a_task_in_json_keeps_what_its_metric_needs(name: str) -> None:
    for task in TASK_SETS[name]:
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_the_page_defines_every_name_under_its_kind() -> None:
    parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for kind, names in NAMES.items():
        defined = re.findall(r"^\| `(\w+)`", sections[kind.value], flags=re.MULTILINE)
        assert defined == names, kind.value
        assert f"| `{names[0]}`, the default |" in sections[kind.value]

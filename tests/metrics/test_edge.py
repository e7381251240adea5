"""Metrics of edges: by hand, by scikit-image's thinning with scipy's optimal assignment, and by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.morphology import thin
from torch import Tensor

from bmtas.metrics import build_metric
from bmtas.tasks import TASK_SETS, Task, TaskKind

Measure = Callable[..., dict[str, float]]
Make = Callable[..., Tensor]
EDGE = TaskKind.EDGE
FIVE = 5.0  # a logit: 0.993, and with a minus 0.0067, less than the least threshold


def lines(*columns: int, height: int = 30, width: int = 40) -> Tensor:
    """Return vertical lines as a label (1, height, width). The diagonal of 30 x 40 is 50."""
    label = torch.zeros(1, height, width, dtype=torch.uint8)
    label[:, :, list(columns)] = 1
    return label


def sure(label: Tensor) -> Tensor:
    """Return logits (1, 1, height, width) that predict a label."""
    return (label.float() * 2 - 1)[:, None] * FIVE


# --- within a tolerance, one to one


@pytest.mark.parametrize(("tolerance", "expected"), [(0.03, 0), (0.04, 1)])
def test_the_task_s_own_tolerance_is_a_share_of_the_diagonal(measure: Measure, tolerance: float, expected: int) -> None:
    # 2 pixels aside; of 50, 0.03 are 1.5 pixels
    found = measure(EDGE, (sure(lines(22)), lines(20)), edge_tolerance=tolerance)
    assert found["ods_f"] == expected
    assert found["max_f"] == 0  # no tolerance


def test_tolerances_of_the_publications() -> None:
    found = {name: {t.edge_tolerance for t in tasks if t.kind is EDGE} for name, tasks in TASK_SETS.items()}
    assert found == {"pascal-context": {0.0075}, "nyud-v2": {0.011}}
    assert Task(name="t", kind=EDGE).edge_tolerance == 0.0075


def test_the_best_threshold_by_hand(measure: Measure) -> None:
    prediction = sure(lines(20))
    prediction[:, :, :, 30] = 0.0  # false, with probability 1/2, which in whole 255ths is 128: 0.502
    # up to 0.5: P 1/2, R 1, F 2/3; from 0.51 on nothing is wrong
    found = measure(EDGE, (prediction, lines(20)), edge_tolerance=0.04)
    assert found == {"ods_f": 1, "max_f": 1, "ods_threshold": 0.51}


def test_edges_are_pooled_over_images(measure: Measure) -> None:
    # all of the one line and a false one of 30 pixels: P 1/2, R 1, F 2/3; the mean over both images would be 1/2
    found = measure(EDGE, (sure(lines(20)), lines(20)), (sure(lines(20)), lines()))
    assert found["ods_f"] == found["max_f"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("shift", "expected"), [(2, 1), (3, 0)])
def test_padding_changes_nothing(measure: Measure, shift: int, expected: int) -> None:
    # the valid 30 x 40 stand in 60 x 80, of which 0.04 were 4 pixels
    label = torch.full((1, 60, 80), 255, dtype=torch.uint8)
    label[:, 10:40, 20:60] = lines(20)
    prediction = torch.full((1, 1, 60, 80), FIVE)
    prediction[:, :, 10:40, 20:60] = sure(lines(20 + shift))
    assert measure(EDGE, (prediction, label), edge_tolerance=0.04)["ods_f"] == expected


def test_ods_f_against_brute_force(measure: Measure, random_labels: Callable[..., npt.NDArray[np.uint8]]) -> None:
    # 12 x 16 has the diagonal 20: 0.075 are 1.5 pixels
    prediction = 2 * torch.randn(3, 1, 12, 16, generator=torch.Generator().manual_seed(5))
    label = random_labels(5, 4, (3, 12, 16))
    label[(label > 1) & (label < 255)] = 0
    label[:, [0, -1], [0, -1]] = 0  # the box of valid pixels is the whole image
    levels = np.floor(255 * torch.sigmoid(prediction[:, 0].double()).numpy() + 0.5).astype(int)
    scores = []
    for k in range(1, 100):
        matched = true_total = found_total = 0
        for level, y in zip(levels, label, strict=True):
            found, true = thin((level * 100 >= 255 * k) & (y != 255)), thin(y == 1)
            near = cdist(np.argwhere(found), np.argwhere(true)) <= 1.5
            matched += int(near[linear_sum_assignment(~near)].sum())
            true_total, found_total = true_total + int(true.sum()), found_total + int(found.sum())
        scores.append(2 * matched / (true_total + found_total))
    truth = torch.from_numpy(label)
    values = measure(EDGE, (prediction[:1], truth[:1]), (prediction[1:], truth[1:]), edge_tolerance=0.075)
    assert 0.1 < max(scores) < 0.9
    assert values["ods_f"] == pytest.approx(max(scores))
    assert values["ods_threshold"] == pytest.approx((int(np.argmax(scores)) + 1) / 100)


def test_a_metric_that_was_closed_takes_no_more(make_task: Callable[..., Task]) -> None:
    metric = build_metric(make_task(EDGE))
    metric.close()
    with pytest.raises(ValueError, match="closed"):
        metric.update(sure(lines(20)), lines(20))


# --- of pixels, without tolerance


def test_max_f_by_hand(measure: Measure, mask: Make, logits: Make) -> None:
    # at 0.4: three found, two of two right: P 2/3, R 1, F 0.8; at 0.6: P 1, R 1/2, F 2/3
    assert measure(EDGE, (logits(0.9, 0.45, 0.5, 0.1), mask(1, 1, 0, 0)))["max_f"] == pytest.approx(0.8)
    assert measure(EDGE, (logits(0.9, 0.45, 0.5, 0.1), mask(1, 1, 255, 0)))["max_f"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("edge", "none", "expected"),
    [(0.5, 0.4999, 1), (0.509, 0.501, 2 / 3), (0.0101, 0.009, 1), (0.995, 0.989, 1), (0.999, 0.991, 2 / 3)],
)
def test_the_thresholds_of_max_f(
    measure: Measure, mask: Make, logits: Make, edge: float, none: float, expected: float
) -> None:
    # hundredths from 0.01 to 0.99, which a pixel reaches that is equal; where none lies between: P 1/2, R 1
    assert measure(EDGE, (logits(edge, none), mask(1, 0)))["max_f"] == pytest.approx(expected)


def test_max_f_is_the_best_of_99_thresholds_over_all_pixels(
    measure: Measure, random_labels: Callable[..., npt.NDArray[np.uint8]], torchmetrics: ModuleType
) -> None:
    prediction = torch.randn(4, 1, 6, 7, generator=torch.Generator().manual_seed(2))
    label = random_labels(2, 2, (4, 6, 7))
    valid = label != 255
    p, y = torch.sigmoid(prediction[:, 0].double()).numpy()[valid], label[valid] == 1
    truth = torch.from_numpy(label)
    best, scores = 0.0, []
    for threshold in np.arange(1, 100) / 100:
        found = p >= threshold
        if (found & y).any():
            precision, recall = (found & y).sum() / found.sum(), (found & y).sum() / y.sum()
            best = max(best, 2 * precision * recall / (precision + recall))
        reference = torchmetrics.classification.BinaryF1Score(float(threshold), ignore_index=255)
        reference.update(prediction[:, 0].sigmoid(), truth.long())
        scores.append(float(reference.compute()))
    values = measure(EDGE, (prediction[:1], truth[:1]), (prediction[1:], truth[1:]))
    assert values["max_f"] == pytest.approx(best, abs=1e-6)
    assert values["max_f"] == pytest.approx(max(scores), abs=1e-6)


# --- where there is nothing


def test_both_are_zero_where_nothing_right_is_ever_found(measure: Measure, mask: Make, logits: Make) -> None:
    for batch in ((logits(0.001, 0.9), mask(1, 0)), (logits(0.3, 0.9), mask(0, 0)), (logits(0.001, 0.001), mask(1, 0))):
        found = measure(EDGE, batch, edge_tolerance=0.0075)
        assert found["ods_f"] == found["max_f"] == 0


def test_without_edges_and_without_any_found_there_is_no_f_of_the_set(
    measure: Measure, mask: Make, logits: Make
) -> None:
    found = measure(EDGE, (logits(0.001, 0.001), mask(0, 0)))
    assert math.isnan(found["ods_f"])
    assert found["max_f"] == 0

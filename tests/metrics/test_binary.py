"""Metrics of masks: by hand, by plain loops in numpy, and by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bmtas.tasks import TaskKind

Measure = Callable[..., dict[str, float]]
Make = Callable[..., Tensor]
BINARY = TaskKind.BINARY


@pytest.fixture
def five(random_labels: Callable[..., npt.NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """Logits (5, 1, 6, 7) and labels: the third image has no foreground, the fourth no label at all."""
    prediction = torch.randn(5, 1, 6, 7, generator=torch.Generator().manual_seed(1))
    label = random_labels(1, 2, (5, 6, 7))
    label[2][label[2] == 1] = 0
    label[3] = 255
    return prediction, torch.from_numpy(label)


# --- IoU per image


def test_max_iou_by_hand(measure: Measure, mask: Make, logits: Make) -> None:
    # above 0.3: both positives and one negative, 2/3; above 0.5 only one positive: 1/2
    assert measure(BINARY, (logits(0.95, 0.45, 0.4, 0.1), mask(1, 1, 0, 0)))["max_iou"] == pytest.approx(1)
    assert measure(BINARY, (logits(0.95, 0.32, 0.48, 0.1), mask(1, 1, 0, 0)))["max_iou"] == pytest.approx(2 / 3)
    assert measure(BINARY, (logits(0.95, 0.32, 0.48, 0.1), mask(1, 1, 255, 0)))["max_iou"] == pytest.approx(1)


def test_an_image_without_foreground_in_which_none_is_found_is_right(
    measure: Measure, mask: Make, logits: Make
) -> None:
    assert measure(BINARY, (logits(0.1, 0.1), mask(0, 0)))["max_iou"] == 1
    # wrong below 0.6, right from there on
    assert measure(BINARY, (logits(0.1, 0.62), mask(0, 0)))["max_iou"] == 1
    assert measure(BINARY, (logits(0.1, 0.99), mask(0, 0)))["max_iou"] == 0


def test_max_iou_takes_one_threshold_for_all_images(measure: Measure, mask: Make, logits: Make) -> None:
    # the first image wants a threshold below 0.3, the second one above 0.7: the best for both is 1 and 1/2
    prediction = torch.cat([logits(0.3, 0.1), logits(0.9, 0.7)])
    label = torch.cat([mask(1, 0), mask(1, 0)])
    assert measure(BINARY, (prediction, label))["max_iou"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("foreground", "background", "expected"),
    [
        (0.92, 0.88, 1),
        (0.92, 0.905, 1 / 2),
        (0.22, 0.18, 1),
        (0.19, 0.15, 0),
    ],  # parted at 0.9, nowhere, at 0.2, nowhere
)
def test_the_least_and_the_greatest_threshold(
    measure: Measure, mask: Make, logits: Make, foreground: float, background: float, expected: float
) -> None:
    assert measure(BINARY, (logits(foreground, background), mask(1, 0)))["max_iou"] == expected


def test_max_iou_is_the_best_of_fifteen_thresholds(measure: Measure, five: tuple[Tensor, Tensor]) -> None:
    prediction, truth = five
    p, label = torch.sigmoid(prediction[:, 0].double()).numpy(), truth.numpy()
    best = 0.0
    for step in range(15):
        ious = []
        for i in (0, 1, 2, 4):
            valid = label[i] != 255
            found, true = (p[i] > 0.2 + 0.05 * step)[valid], (label[i] == 1)[valid]
            ious.append((found & true).sum() / (found | true).sum() if (found | true).any() else 1.0)
        best = max(best, float(np.mean(ious)))
    found = measure(BINARY, (prediction[:1], truth[:1]), (prediction[1:], truth[1:]))
    assert found["max_iou"] == pytest.approx(best, abs=1e-6)


# --- F with beta^2 = 0.3


def test_max_f_by_hand(measure: Measure, mask: Make, logits: Make) -> None:
    # above 0.6: P 1, R 1/2, F 1.3 * 0.5 / (0.3 + 0.5) = 0.8125; above 0.4: P 2/3, R 1, F 0.722; all: P 1/2, R 1, F 0.565
    assert measure(BINARY, (logits(0.9, 0.4, 0.6, 0.1), mask(1, 1, 0, 0)))["max_f"] == pytest.approx(0.8125)
    # without the false one: P 1, R 1
    assert measure(BINARY, (logits(0.9, 0.4, 0.6, 0.1), mask(1, 1, 255, 0)))["max_f"] == pytest.approx(1)


def test_max_f_takes_means_of_precision_and_recall_over_images(measure: Measure, mask: Make, logits: Make) -> None:
    # P 1 and 1/2, R 1/2 and 1: both means are 3/4, and so is F. The mean of the images' F is 0.689, F of all pixels 0.667.
    prediction = torch.cat([logits(0.9999, 0.0001, 0.0001), logits(0.9999, 0.9999, 0.0001)])
    label = torch.cat([mask(1, 1, 0), mask(1, 0, 0)])
    assert measure(BINARY, (prediction, label))["max_f"] == pytest.approx(3 / 4)


def test_images_without_foreground_do_not_enter_max_f(measure: Measure, mask: Make, logits: Make) -> None:
    one, empty = (logits(0.9, 0.8), mask(1, 0)), (logits(0.99, 0.99), mask(0, 255))
    assert measure(BINARY, one)["max_f"] == measure(BINARY, one, empty)["max_f"] == pytest.approx(1)
    assert math.isnan(measure(BINARY, empty)["max_f"])


def test_max_f_is_zero_where_nothing_right_is_ever_found(measure: Measure, mask: Make, logits: Make) -> None:
    # the foreground is below a 510th: 0 of 255
    assert measure(BINARY, (logits(0.001, 0.9), mask(1, 0)))["max_f"] == 0
    assert measure(BINARY, (logits(0.001, 0.001), mask(1, 0)))["max_f"] == 0


def test_max_f_tells_255ths_apart(measure: Measure, mask: Make, logits: Make) -> None:
    # 127.7 and 126.7 are 128 and 127; 128.3 and 127.7 are both 128: P 1/2, R 1
    assert measure(BINARY, (logits(127.7 / 255, 126.7 / 255), mask(1, 0)))["max_f"] == pytest.approx(1)
    assert measure(BINARY, (logits(128.3 / 255, 127.7 / 255), mask(1, 0)))["max_f"] == pytest.approx(0.65 / 1.15)


def test_max_f_is_the_best_of_255_thresholds(measure: Measure, five: tuple[Tensor, Tensor]) -> None:
    prediction, truth = five
    p, label = torch.sigmoid(prediction[:, 0].double()).numpy(), truth.numpy()
    best = 0.0
    for k in range(1, 256):
        precisions, recalls = [], []
        for i in (0, 1, 4):
            valid = label[i] != 255
            found, true = (np.rint(255 * p[i]) >= k)[valid], (label[i] == 1)[valid]
            precisions.append((found & true).sum() / found.sum() if found.any() else 0.0)
            recalls.append((found & true).sum() / true.sum())
        precision, recall = np.mean(precisions), np.mean(recalls)
        if precision and recall:
            best = max(best, float(1.3 * precision * recall / (0.3 * precision + recall)))
    found = measure(BINARY, (prediction[:1], truth[:1]), (prediction[1:], truth[1:]))
    assert 0.1 < best < 0.9
    assert found["max_f"] == pytest.approx(best, abs=1e-9)


def test_max_f_of_one_image_is_that_of_torchmetrics(
    measure: Measure, five: tuple[Tensor, Tensor], torchmetrics: ModuleType
) -> None:
    prediction, truth = five[0][:1], five[1][:1]
    scores = []
    for k in range(1, 256):
        # 255ths that are rounded to k or more are above k - 1/2
        threshold = (k - 0.5) / 255
        reference = torchmetrics.classification.BinaryFBetaScore(math.sqrt(0.3), threshold, ignore_index=255)
        reference.update(prediction[:, 0].sigmoid(), truth.long())
        scores.append(float(reference.compute()))
    assert measure(BINARY, (prediction, truth))["max_f"] == pytest.approx(max(scores), abs=1e-6)

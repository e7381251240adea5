"""Metrics of classes, of pixels and of images: by hand, by sets in numpy, and by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.tasks import TaskKind

Measure = Callable[..., dict[str, float]]
SEGMENTATION, CLASSIFICATION = TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION


def classes(ids: list[int], count: int = 3) -> Tensor:
    """Return logits (1, count, 1, n) whose largest is at `ids`."""
    return F.one_hot(torch.tensor(ids), count).float().T[None, :, None] * 3 - 1


# --- segmentation


def test_mean_iou_by_hand(measure: Measure, mask: Callable[..., Tensor]) -> None:
    # class 0: 1 of 2, class 1: 1 of 2; class 2 is predicted only where nothing counts
    found = measure(SEGMENTATION, (classes([0, 1, 1, 2]), mask(0, 0, 1, 255)))
    assert found["miou"] == pytest.approx(1 / 2)
    assert found["pixel_accuracy"] == pytest.approx(2 / 3)


def test_the_four_conventions_for_absent_classes(measure: Measure, mask: Callable[..., Tensor]) -> None:
    # Class 0: 3 found, 5 in the union. Class 1 occurs and is never found. Class 2 is predicted and does not occur.
    # Class 3 neither. Class 4: 2 of 2. Where the label is 255, 1 and 3 are predicted.
    batch = classes([0, 0, 0, 2, 0, 4, 4, 1, 3], 5), mask(0, 0, 0, 0, 1, 4, 4, 255, 255)
    found = measure(SEGMENTATION, batch, classes=5)
    assert found == {
        "miou": pytest.approx((3 / 5 + 0 + 0 + 1) / 4),
        "miou_labelled": pytest.approx((3 / 5 + 0 + 1) / 3),
        "miou_all": pytest.approx((3 / 5 + 0 + 0 + 0 + 1) / 5),
        "miou_hit": pytest.approx((3 / 5 + 1) / 2),
        "pixel_accuracy": pytest.approx(5 / 7),
    }


def test_a_class_that_is_predicted_but_absent_counts_as_zero(measure: Measure, mask: Callable[..., Tensor]) -> None:
    # class 0: 1 of 2, class 1: 1 of 1, class 2: 0 of 1
    found = measure(SEGMENTATION, (classes([0, 2, 1]), mask(0, 0, 1)))
    assert found["miou"] == pytest.approx(1 / 2)
    assert found["miou_labelled"] == found["miou_hit"] == pytest.approx(3 / 4)


def test_classes_that_are_absent_and_never_predicted(measure: Measure, mask: Callable[..., Tensor]) -> None:
    found = measure(SEGMENTATION, (classes([0, 1], 21), mask(0, 1)), classes=21)
    assert found["miou"] == found["miou_labelled"] == found["miou_hit"] == 1
    assert found["miou_all"] == pytest.approx(2 / 21)


def test_where_no_pixel_is_right_all_are_zero(measure: Measure, mask: Callable[..., Tensor]) -> None:
    found = measure(SEGMENTATION, (classes([1, 0]), mask(0, 1)))
    assert found == dict.fromkeys(("miou", "miou_labelled", "miou_all", "miou_hit", "pixel_accuracy"), 0)


def scattered(random_labels: Callable[..., np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return logits (6, 6, 5, 7) and labels: class 3 never occurs, class 4 is not predicted either, class 5 occurs once."""
    label = random_labels(0, 3, (6, 5, 7))
    label[0, 0, 0] = 5
    prediction = torch.randn(6, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    prediction[:, 4:] = -9
    return prediction, torch.from_numpy(label)


def test_counts_pool_pixels_over_batches(measure: Measure, random_labels: Callable[..., np.ndarray]) -> None:
    prediction, truth = scattered(random_labels)
    predicted, label = prediction.argmax(dim=1).numpy(), truth.numpy()
    valid = label != 255
    ious: dict[int, float] = {}
    for c in range(6):
        found, true = (predicted == c) & valid, (label == c) & valid
        if (found | true).any():
            ious[c] = (found & true).sum() / (found | true).sum()
    assert sorted(ious) == [0, 1, 2, 3, 5]
    assert ious[3] == ious[5] == 0
    values = measure(SEGMENTATION, (prediction[:2], truth[:2]), (prediction[2:], truth[2:]), classes=6)
    assert values["miou"] == pytest.approx(sum(ious.values()) / 5)
    assert values["miou_labelled"] == pytest.approx((ious[0] + ious[1] + ious[2]) / 4)
    assert values["miou_all"] == pytest.approx(sum(ious.values()) / 6)
    assert values["miou_hit"] == pytest.approx((ious[0] + ious[1] + ious[2]) / 3)


def test_segmentation_is_that_of_torchmetrics(
    measure: Measure, random_labels: Callable[..., np.ndarray], torchmetrics: ModuleType
) -> None:
    prediction, truth = scattered(random_labels)
    jaccard = torchmetrics.classification.MulticlassJaccardIndex(6, average="macro", ignore_index=255)
    accuracy = torchmetrics.classification.MulticlassAccuracy(6, average="micro", ignore_index=255)
    for metric in (jaccard, accuracy):
        metric.update(prediction, truth.long())
    values = measure(SEGMENTATION, (prediction, truth), classes=6)
    assert values["miou"] == pytest.approx(float(jaccard.compute()), abs=1e-6)
    assert values["pixel_accuracy"] == pytest.approx(float(accuracy.compute()), abs=1e-6)


# --- classification


def test_accuracy_is_a_share_of_the_images_with_a_label(measure: Measure) -> None:
    prediction = torch.tensor([[3.0, 1, 0], [0, 1, 2], [0, 5, 1], [1, 0, 0]])
    found = measure(CLASSIFICATION, (prediction, torch.tensor([0, 1, 1, -1])))
    assert found == {"top1": pytest.approx(2 / 3), "top5": 1}  # of three classes, every one is among the best five


def test_the_five_most_probable_classes_by_hand(measure: Measure) -> None:
    # seven classes, the first one the most probable
    prediction = torch.arange(7.0, 0, -1).expand(4, 7)
    found = measure(CLASSIFICATION, (prediction, torch.tensor([0, 4, 5, -1])), classes=7)
    assert found == {"top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3)}


def test_accuracy_is_that_of_torchmetrics(measure: Measure, torchmetrics: ModuleType) -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, label = torch.randn(60, 9, generator=generator), torch.randint(-1, 9, (60,), generator=generator)
    assert (label == -1).any()
    found = measure(CLASSIFICATION, (prediction[:13], label[:13]), (prediction[13:], label[13:]), classes=9)
    assert 0 < found["top1"] < found["top5"] < 1
    for name, count in (("top1", 1), ("top5", 5)):
        reference = torchmetrics.classification.MulticlassAccuracy(9, average="micro", top_k=count, ignore_index=-1)
        reference.update(prediction, label)
        assert math.isclose(found[name], float(reference.compute()), abs_tol=1e-6), name

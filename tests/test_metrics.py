"""Metrics against cases computed by hand, by brute force in numpy, and by torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.metrics import build_metric
from bmtas.tasks import METRICS, Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision

NAN = float("nan")


def make(kind: TaskKind, classes: int = 3) -> Task:
    names = tuple(f"c{i}" for i in range(classes)) if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION) else ()
    return Task(name="t", kind=kind, classes=names)


def measure(task: Task, *batches: tuple[Tensor, Tensor]) -> float:
    metric = build_metric(task)
    for prediction, label in batches:
        metric.update(prediction, label)
    return metric.compute()


def classes(ids: list[int], count: int = 3) -> Tensor:
    """Return logits (1, count, 1, n) whose largest is at `ids`."""
    return F.one_hot(torch.tensor(ids), count).float().T[None, :, None] * 3 - 1


def mask(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[None, None]


def logits(*probabilities: float) -> Tensor:
    return torch.logit(torch.tensor(probabilities))[None, None, None]


def random_masks(seed: int, classes: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape).astype(np.uint8)
    label[rng.random(shape) < 0.2] = 255
    return label


# --- segmentation


def test_mean_iou_by_hand() -> None:
    # class 0: 1 of 2, class 1: 1 of 2; class 2 is predicted only where nothing counts
    assert measure(make(TaskKind.SEGMENTATION), (classes([0, 1, 1, 2]), mask(0, 0, 1, 255))) == pytest.approx(0.5)


def test_a_class_that_is_predicted_but_absent_counts_as_zero() -> None:
    # class 0: 1 of 2, class 1: 1 of 1, class 2: 0 of 1
    assert measure(make(TaskKind.SEGMENTATION), (classes([0, 2, 1]), mask(0, 0, 1))) == pytest.approx(0.5)


def test_a_class_that_is_absent_and_never_predicted_does_not_count() -> None:
    assert measure(make(TaskKind.SEGMENTATION, 21), (classes([0, 1], 21), mask(0, 1))) == pytest.approx(1)


def test_mean_iou_pools_pixels_over_batches() -> None:
    label = random_masks(0, 4, (6, 5, 7))
    label[label == 3] = 255  # class 3 never occurs
    prediction = torch.randn(6, 5, 5, 7, generator=torch.Generator().manual_seed(0))
    prediction[:, 4] = -9  # class 4 neither occurs nor is predicted
    predicted = prediction.argmax(dim=1).numpy()
    valid = label != 255
    ious = []
    for c in range(5):
        union = ((predicted == c) | (label == c)) & valid
        if union.any():
            ious.append(((predicted == c) & (label == c) & valid).sum() / union.sum())
    assert len(ious) == 4
    truth = torch.from_numpy(label)
    found = measure(make(TaskKind.SEGMENTATION, 5), (prediction[:2], truth[:2]), (prediction[2:], truth[2:]))
    assert found == pytest.approx(np.mean(ious), abs=1e-6)


# --- binary


def test_max_iou_by_hand() -> None:
    task = make(TaskKind.BINARY)
    # above 0.3: both positives and one negative, 2/3; above 0.5 only one positive: 1/2
    assert measure(task, (logits(0.95, 0.45, 0.4, 0.1), mask(1, 1, 0, 0))) == pytest.approx(1)
    assert measure(task, (logits(0.95, 0.32, 0.48, 0.1), mask(1, 1, 0, 0))) == pytest.approx(2 / 3)
    assert measure(task, (logits(0.95, 0.32, 0.48, 0.1), mask(1, 1, 255, 0))) == pytest.approx(1)


def test_an_image_without_foreground_in_which_none_is_found_is_right() -> None:
    task = make(TaskKind.BINARY)
    assert measure(task, (logits(0.1, 0.1), mask(0, 0))) == 1
    # wrong below 0.6, right from there on
    assert measure(task, (logits(0.1, 0.62), mask(0, 0))) == 1
    assert measure(task, (logits(0.1, 0.99), mask(0, 0))) == 0


def test_max_iou_takes_one_threshold_for_all_images() -> None:
    # the first image wants a threshold below 0.3, the second one above 0.7: the best for both is 1 and 1/2
    prediction = torch.cat([logits(0.3, 0.1), logits(0.9, 0.7)])
    label = torch.cat([mask(1, 0), mask(1, 0)])
    assert measure(make(TaskKind.BINARY), (prediction, label)) == pytest.approx((1 + 1 / 2) / 2)


def test_max_iou_is_the_best_of_fifteen_thresholds() -> None:
    prediction = torch.randn(5, 1, 6, 7, generator=torch.Generator().manual_seed(1))
    label = random_masks(1, 2, (5, 6, 7))
    label[3] = 255  # an image without any label counts not at all
    p = torch.sigmoid(prediction[:, 0].double()).numpy()
    best = 0.0
    for step in range(15):
        ious = []
        for i in (0, 1, 2, 4):
            valid = label[i] != 255
            found, true = (p[i] > 0.2 + 0.05 * step)[valid], (label[i] == 1)[valid]
            ious.append((found & true).sum() / (found | true).sum() if (found | true).any() else 1.0)
        best = max(best, float(np.mean(ious)))
    truth = torch.from_numpy(label)
    found = measure(make(TaskKind.BINARY), (prediction[:1], truth[:1]), (prediction[1:], truth[1:]))
    assert found == pytest.approx(best, abs=1e-6)


# --- edge


def test_max_f_by_hand() -> None:
    # at 0.4: three found, two of two right: P 2/3, R 1, F 0.8; at 0.6: P 1, R 1/2, F 2/3
    assert measure(make(TaskKind.EDGE), (logits(0.9, 0.45, 0.5, 0.1), mask(1, 1, 0, 0))) == pytest.approx(0.8)


def test_max_f_is_the_best_of_99_thresholds_over_all_pixels() -> None:
    prediction = torch.randn(4, 1, 6, 7, generator=torch.Generator().manual_seed(2))
    label = random_masks(2, 2, (4, 6, 7))
    valid = label != 255
    p, y = torch.sigmoid(prediction[:, 0].double()).numpy()[valid], label[valid] == 1
    best = 0.0
    for threshold in np.arange(1, 100) / 100:
        found = p >= threshold
        if (found & y).any():
            precision, recall = (found & y).sum() / found.sum(), (found & y).sum() / y.sum()
            best = max(best, 2 * precision * recall / (precision + recall))
    truth = torch.from_numpy(label)
    found = measure(make(TaskKind.EDGE), (prediction[:1], truth[:1]), (prediction[1:], truth[1:]))
    assert found == pytest.approx(best, abs=1e-6)


def test_max_f_is_zero_where_nothing_right_is_ever_found() -> None:
    assert measure(make(TaskKind.EDGE), (logits(0.001, 0.9), mask(1, 0))) == 0
    assert measure(make(TaskKind.EDGE), (logits(0.3, 0.9), mask(0, 0))) == 0


# --- normals, depth, regression, classification


def test_mean_angle_by_hand() -> None:
    prediction = torch.tensor([[0.0, 0.0, 5.0], [1.0, 1.0, 0.0], [0.0, -2.0, 0.0], [9.0, 9.0, 9.0]])
    label = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    batch = (prediction.T[None, :, None], label.T[None, :, None])
    assert measure(make(TaskKind.NORMALS), batch) == pytest.approx((0 + 45 + 180) / 3)


def test_mean_angle_pools_pixels_over_batches() -> None:
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(3, 3, 4, 5, generator=generator)
    label = F.normalize(torch.randn(3, 3, 4, 5, generator=generator), dim=1)
    label[0, :, :3] = 0
    angles = []
    for p, y in zip(prediction.movedim(1, -1).reshape(-1, 3), label.movedim(1, -1).reshape(-1, 3), strict=True):
        if y.any():
            a, b = p.double().numpy(), y.double().numpy()
            angles.append(math.degrees(math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))))
    assert len(angles) == 45
    found = measure(make(TaskKind.NORMALS), (prediction[:1], label[:1]), (prediction[1:], label[1:]))
    assert found == pytest.approx(np.mean(angles), abs=1e-4)


@pytest.mark.parametrize("kind", [TaskKind.DEPTH, TaskKind.REGRESSION])
def test_root_mean_square_by_hand(kind: TaskKind) -> None:
    prediction, label = torch.tensor([[[[4.0, 9.0, 6.0]]]]), torch.tensor([[[1.0, NAN, 2.0]]])
    assert measure(make(kind), (prediction, label)) == pytest.approx(math.sqrt((9 + 16) / 2))


def test_root_mean_square_is_that_of_torchmetrics() -> None:
    import_torchvision()
    from torchmetrics import MeanSquaredError

    generator = torch.Generator().manual_seed(4)
    prediction, label = torch.randn(4, 1, 5, 6, generator=generator), torch.randn(4, 5, 6, generator=generator)
    reference = MeanSquaredError(squared=False)
    reference.update(prediction[:, 0], label)
    found = measure(make(TaskKind.DEPTH), (prediction[:1], label[:1]), (prediction[1:], label[1:]))
    assert found == pytest.approx(float(reference.compute()), rel=1e-5)


def test_accuracy_is_a_share_of_the_images_with_a_label() -> None:
    prediction = torch.tensor([[3.0, 1, 0], [0, 1, 2], [0, 5, 1], [1, 0, 0]])
    label = torch.tensor([0, 1, 1, -1])
    assert measure(make(TaskKind.CLASSIFICATION), (prediction, label)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", list(TaskKind))
@pytest.mark.parametrize("batches", [0, 1])
def test_without_a_valid_label_there_is_no_number(kind: TaskKind, batches: int) -> None:
    task = make(kind)
    prediction, label = torch.zeros(1, task.channels, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8)
    if kind is TaskKind.NORMALS:
        label = torch.zeros(1, 3, 2, 2)
    elif kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        label = torch.full((1, 2, 2), NAN)
    elif kind is TaskKind.CLASSIFICATION:
        prediction, label = torch.zeros(1, 3), torch.tensor([-1])
    assert math.isnan(measure(task, *[(prediction, label)] * batches))


def test_every_kind_has_a_metric_with_a_direction() -> None:
    assert set(METRICS) == set(TaskKind)
    lower = {kind for kind, (_, higher) in METRICS.items() if not higher}
    assert lower == {TaskKind.NORMALS, TaskKind.DEPTH, TaskKind.REGRESSION}

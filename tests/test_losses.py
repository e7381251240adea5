"""Losses against numbers computed by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from bmtas.losses import task_loss
from bmtas.tasks import Task, TaskKind

NAN = float("nan")
LN3 = log(3)


def make(kind: TaskKind, weight: float = 1.0, edge: float = 0.95) -> Task:
    classes = ("x", "y") if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION) else ()
    return Task(name="t", kind=kind, classes=classes, loss_weight=weight, edge_positive_weight=edge)


def row(*values: float) -> Tensor:
    """Return predictions (1, 1, 1, n)."""
    return torch.tensor(values)[None, None, None]


def mask(*values: int) -> Tensor:
    """Return labels (1, 1, n)."""
    return torch.tensor(values, dtype=torch.uint8)[None, None]


def value(task: Task, prediction: Tensor, label: Tensor) -> float:
    loss = task_loss(task, prediction, label)
    assert loss.shape == ()
    return float(loss)


def test_segmentation_is_cross_entropy_over_valid_pixels() -> None:
    # logits (0, ln 3): probabilities 1/4 and 3/4
    prediction = torch.tensor([[0.0, 0.0, 9.0], [LN3, LN3, 0.0]])[None, :, None]
    task = make(TaskKind.SEGMENTATION)
    assert value(task, prediction, mask(0, 255, 255)) == pytest.approx(log(4))
    assert value(task, prediction, mask(0, 1, 255)) == pytest.approx((log(4) + log(4 / 3)) / 2)


def test_classification_is_cross_entropy_over_images_with_a_label() -> None:
    prediction = torch.tensor([[0.0, LN3], [0.0, LN3], [5.0, -5.0]])
    found = value(make(TaskKind.CLASSIFICATION), prediction, torch.tensor([0, 1, -1]))
    assert found == pytest.approx((log(4) + log(4 / 3)) / 2)


def test_binary_weighs_each_side_by_the_share_of_the_other() -> None:
    # 1 positive, 2 negatives, 1 ignored. Positive at p = 3/4, weight 2/3; negatives at 3/4 and 1/2, weight 1/3.
    expected = (2 / 3 * log(4 / 3) + 1 / 3 * log(4) + 1 / 3 * log(2)) / 3
    assert value(make(TaskKind.BINARY), row(LN3, LN3, 0, 7), mask(1, 0, 0, 255)) == pytest.approx(expected)


def test_binary_takes_the_shares_over_the_whole_batch() -> None:
    prediction = torch.cat([row(LN3, LN3), row(0, 7)])
    label = torch.cat([mask(1, 0), mask(0, 255)])
    expected = (2 / 3 * log(4 / 3) + 1 / 3 * log(4) + 1 / 3 * log(2)) / 3
    assert value(make(TaskKind.BINARY), prediction, label) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.95, 0.8])
def test_edge_weighs_positives_by_the_task_s_weight(weight: float) -> None:
    expected = (weight * log(4 / 3) + (1 - weight) * (log(4) + log(2))) / 3
    found = value(make(TaskKind.EDGE, edge=weight), row(LN3, LN3, 0, 7), mask(1, 0, 0, 255))
    assert found == pytest.approx(expected)


def test_normals_are_compared_as_unit_vectors_where_valid() -> None:
    # (0, 0, 2) is (0, 0, 1): no error. (3, 4, 0) is (0.6, 0.8, 0) against (1, 0, 0): 0.4 + 0.8. The third is invalid.
    prediction = torch.tensor([[0.0, 0.0, 2.0], [3.0, 4.0, 0.0], [9.0, 9.0, 9.0]]).T[None, :, None]
    label = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).T[None, :, None]
    assert value(make(TaskKind.NORMALS), prediction, label) == pytest.approx(1.2 / 6)


@pytest.mark.parametrize("kind", [TaskKind.DEPTH, TaskKind.REGRESSION])
def test_depth_and_regression_are_mean_absolute_errors_of_valid_pixels(kind: TaskKind) -> None:
    label = torch.tensor([[[1.0, NAN, 3.0]]])
    assert value(make(kind), row(2, 100, 1), label) == pytest.approx(1.5)


def test_the_task_s_weight_is_left_to_the_caller() -> None:
    label = torch.tensor([[[1.0]]])
    assert value(make(TaskKind.DEPTH, weight=7.0), row(3), label) == pytest.approx(2)


def invalid(kind: TaskKind, prediction: Tensor) -> Tensor:
    images, _, height, width = prediction.shape
    if kind is TaskKind.NORMALS:
        return torch.zeros(images, 3, height, width)
    if kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return torch.full((images, height, width), NAN)
    return torch.full((images, height, width), 255, dtype=torch.uint8)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_batch_without_labels_is_a_step_that_changes_nothing(kind: TaskKind) -> None:
    task = make(kind)
    prediction = torch.randn(2, task.channels, 3, 4, generator=torch.Generator().manual_seed(0))
    label = invalid(kind, prediction)
    if kind is TaskKind.CLASSIFICATION:
        prediction, label = prediction.mean(dim=(2, 3)), torch.tensor([-1, -1])
    prediction.requires_grad_(True)
    loss = task_loss(task, prediction, label)
    assert float(loss.detach()) == 0
    loss.backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("kind", [kind for kind in TaskKind if kind is not TaskKind.CLASSIFICATION])
def test_invalid_pixels_receive_no_gradient_and_valid_ones_do(kind: TaskKind) -> None:
    task = make(kind)
    prediction = torch.randn(2, task.channels, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    label = invalid(kind, prediction)
    label[0, ..., 0] = 1  # class 1, an edge, a metre, or a normal that is not of length 1
    label[0, ..., 1, 0] = 0 if label.dtype == torch.uint8 else 1  # binary: with one side only, the other weighs nothing
    task_loss(task, prediction, label).backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad[0, :, :, 0] != 0).any(dim=0).all()
    assert (prediction.grad[0, :, :, 1:] == 0).all()
    assert (prediction.grad[1] == 0).all()

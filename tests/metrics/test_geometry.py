"""Metrics of normals, depth and other measures: by hand, by a few lines of numpy, and by torchmetrics."""

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
NORMALS, DEPTH, REGRESSION = TaskKind.NORMALS, TaskKind.DEPTH, TaskKind.REGRESSION
NAN = float("nan")


def rows(*vectors: tuple[float, float, float]) -> Tensor:
    """Return vectors as (1, 3, 1, n)."""
    return torch.tensor(vectors).T[None, :, None]


def turned(*degrees: float) -> tuple[Tensor, Tensor]:
    """Return predictions and labels that are these angles apart."""
    radians = [math.radians(d) for d in degrees]
    return rows(*((math.cos(r), math.sin(r), 0.0) for r in radians)), rows(*[(1.0, 0.0, 0.0)] * len(degrees))


# --- normals


def test_angles_by_hand(measure: Measure) -> None:
    prediction = rows((0, 0, 5), (1, 1, 0), (0, -2, 0), (9, 9, 9))
    label = rows((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0))
    found = measure(NORMALS, (prediction, label))
    assert found == {
        "mean_angle_deg": pytest.approx((0 + 45 + 180) / 3),
        "median_angle_deg": pytest.approx(45, abs=0.01),
        "within_11_25_deg": pytest.approx(1 / 3),
        "within_22_5_deg": pytest.approx(1 / 3),
        "within_30_deg": pytest.approx(1 / 3),
    }


def test_shares_and_median_by_hand(measure: Measure) -> None:
    found = measure(NORMALS, turned(11.2, 11.3, 22.4, 22.6, 22.7, 29.9, 30.1, 90))
    assert found["within_11_25_deg"] == 1 / 8
    assert found["within_22_5_deg"] == 3 / 8
    assert found["within_30_deg"] == 6 / 8
    assert found["median_angle_deg"] == pytest.approx(22.6, abs=0.01)  # the lower of the two in the middle


@pytest.mark.parametrize("factor", [1, -1])
def test_the_length_of_vectors_does_not_matter(measure: Measure, factor: int) -> None:
    label = F.normalize(torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(6)), dim=1)
    found = measure(NORMALS, (7.0 * factor * label, label))
    expected = 0 if factor == 1 else 180
    # a label's length is 1 in single precision only, which alone would make 0.006 degrees
    assert found["mean_angle_deg"] == pytest.approx(expected, abs=1e-4)
    assert found["median_angle_deg"] == pytest.approx(expected, abs=0.01)


def test_no_angle_is_above_180_degrees(measure: Measure) -> None:
    found = measure(NORMALS, (rows((-3, 0, 0)), rows((1, 0, 0))))
    assert found["mean_angle_deg"] == 180
    assert 179.99 <= found["median_angle_deg"] <= 180


def test_no_vector_at_all_is_at_a_right_angle(measure: Measure) -> None:
    assert measure(NORMALS, (rows((0, 0, 0)), rows((0, 0, 1))))["mean_angle_deg"] == pytest.approx(90)


@pytest.mark.parametrize("batches", [[3], [1, 2]])
def test_angles_are_pooled_over_pixels_of_all_batches(measure: Measure, batches: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    label = F.normalize(torch.randn(3, 3, 12, 15, generator=generator), dim=1)
    prediction = 2 * label + torch.randn(3, 3, 12, 15, generator=generator)
    label[0, :, :9] = label[2, :, 0, :2] = 0
    prediction[1] = -prediction[1]  # so that a mean over images were another
    angles = []
    for p, y in zip(prediction.movedim(1, -1).reshape(-1, 3), label.movedim(1, -1).reshape(-1, 3), strict=True):
        if y.any():
            a, b = p.double().numpy(), y.double().numpy()
            angles.append(math.degrees(math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))))
    assert len(angles) == 403  # the median is one of them
    found = measure(NORMALS, *zip(prediction.split(batches), label.split(batches), strict=True))
    assert found["mean_angle_deg"] == pytest.approx(np.mean(angles), abs=1e-9)
    assert found["median_angle_deg"] == pytest.approx(np.median(angles), abs=0.01)
    for name, limit in (("within_11_25_deg", 11.25), ("within_22_5_deg", 22.5), ("within_30_deg", 30)):
        assert found[name] == pytest.approx(np.mean(np.array(angles) < limit)), name
        assert 0 < found[name] < 1


# --- depth


def test_errors_of_depth_by_hand(measure: Measure) -> None:
    # errors 3 and 4 of 1 and 2; ratios 4 and 3
    found = measure(DEPTH, (torch.tensor([[[[4.0, 9.0, 6.0]]]]), torch.tensor([[[1.0, NAN, 2.0]]])))
    assert found == {
        "rmse_m": pytest.approx(math.sqrt((9 + 16) / 2)),
        "rmse_per_image_m": pytest.approx(math.sqrt((9 + 16) / 2)),
        "mean_abs_m": pytest.approx(3.5),
        "mean_rel": pytest.approx((3 + 2) / 2),
        "delta_1": 0,
        "delta_2": 0,
        "delta_3": 0,
    }


def test_ratios_count_in_both_directions(measure: Measure) -> None:
    # 1.25, 1.5625, 1.953125 are the limits: ratios 1.2, 1/1.2, 1.3, 1/1.5, 1.9, 2, 1/2; and 1.25 itself is not below it
    prediction = torch.tensor([2.4, 2 / 1.2, 2.6, 2 / 1.5, 3.8, 4.0, 1.0, 2.5])[None, None, None]
    found = measure(DEPTH, (prediction, torch.full((1, 1, 8), 2.0)))
    assert (found["delta_1"], found["delta_2"], found["delta_3"]) == (2 / 8, 5 / 8, 6 / 8)


def test_a_prediction_that_is_no_depth_is_wrong_and_no_more(measure: Measure) -> None:
    # by the ratio alone, -1 for 1 were -1 and so below every limit
    found = measure(DEPTH, (torch.tensor([[[[0.0, -1.0, 1.0, -0.9]]]]), torch.ones(1, 1, 4)))
    assert (found["delta_1"], found["delta_2"], found["delta_3"]) == (1 / 4, 1 / 4, 1 / 4)
    assert found["mean_abs_m"] == found["mean_rel"] == pytest.approx((1 + 2 + 0 + 1.9) / 4)
    assert found["rmse_m"] == pytest.approx(math.sqrt((1 + 4 + 0 + 1.9**2) / 4))


def test_pixels_of_the_set_and_images_are_two_ways_to_pool(measure: Measure) -> None:
    # two pixels without error, one with 3 metres; the third image has no label
    prediction = torch.tensor([[1.0, 2.0], [5.0, 9.0], [7.0, 7.0]])[:, None, None]
    label = torch.tensor([[1.0, 2.0], [2.0, NAN], [NAN, NAN]])[:, None]
    found = measure(DEPTH, (prediction, label))
    assert found["rmse_m"] == pytest.approx(math.sqrt(9 / 3))
    assert found["rmse_per_image_m"] == pytest.approx((0 + 3) / 2)
    assert found["mean_abs_m"] == pytest.approx(3 / 3)
    assert found["mean_rel"] == pytest.approx(1.5 / 3)


def test_depth_against_numpy_and_torchmetrics(measure: Measure, torchmetrics: ModuleType) -> None:
    generator = torch.Generator().manual_seed(4)
    label = torch.rand(4, 5, 6, generator=generator) * 8 + 0.5
    prediction = (label * (0.6 + torch.rand(4, 5, 6, generator=generator)))[:, None]
    prediction[2] *= 2
    label[0, :3] = NAN
    found = measure(DEPTH, (prediction[:1], label[:1]), (prediction[1:], label[1:]))
    valid = torch.isfinite(label)
    for name, reference in (
        ("rmse_m", torchmetrics.MeanSquaredError(squared=False)),
        ("mean_abs_m", torchmetrics.MeanAbsoluteError()),
        ("mean_rel", torchmetrics.MeanAbsolutePercentageError()),
    ):
        reference.update(prediction[:, 0][valid], label[valid])
        assert found[name] == pytest.approx(float(reference.compute()), rel=1e-5), name
    p, y = prediction[:, 0].double().numpy(), label.double().numpy()
    assert found["rmse_per_image_m"] == pytest.approx(np.sqrt(np.nanmean((p - y) ** 2, axis=(1, 2))).mean())
    logs = np.abs(np.log(p / y))[valid.numpy()]
    for k in (1, 2, 3):
        assert found[f"delta_{k}"] == pytest.approx((logs < k * math.log(1.25)).mean()), k
    assert 0 < found["delta_1"] < found["delta_2"] < found["delta_3"] < 1


# --- regression


def test_errors_of_regression_by_hand(measure: Measure) -> None:
    found = measure(REGRESSION, (torch.tensor([[[[4.0, 9.0, -6.0]]]]), torch.tensor([[[1.0, NAN, -2.0]]])))
    assert found == {"rmse": pytest.approx(math.sqrt((9 + 16) / 2)), "mean_abs": pytest.approx(3.5)}


def test_regression_is_that_of_torchmetrics(measure: Measure, torchmetrics: ModuleType) -> None:
    generator = torch.Generator().manual_seed(7)
    prediction, label = torch.randn(4, 1, 5, 6, generator=generator), torch.randn(4, 5, 6, generator=generator)
    found = measure(REGRESSION, (prediction[:1], label[:1]), (prediction[1:], label[1:]))
    for name, reference in (
        ("rmse", torchmetrics.MeanSquaredError(squared=False)),
        ("mean_abs", torchmetrics.MeanAbsoluteError()),
    ):
        reference.update(prediction[:, 0], label)
        assert found[name] == pytest.approx(float(reference.compute()), rel=1e-5), name

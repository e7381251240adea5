"""The best constant prediction: in closed form where there is one, by a fine grid of directions for normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.constants import constant_losses
from bmtas.data.batches import Batch
from bmtas.tasks import IGNORE, Task, TaskKind

SIDE = 16
CLASSES = ("a", "b", "c")


def batch(task: Task, label: Tensor) -> Batch:
    count = len(label)
    return Batch(torch.zeros(count, 3, SIDE, SIDE), {task.name: label}, tuple(map(str, range(count))))


def constant(task: Task, *labels: Tensor) -> float:
    return constant_losses([batch(task, label) for label in labels], [task])["t"]


def drawn(probabilities: list[float], seed: int, images: int = 3) -> Tensor:
    """Labels of which each value 0, 1, ... comes up with its probability; a tenth of the pixels has none."""
    rng = np.random.default_rng(seed)
    label = rng.choice(len(probabilities), size=(images, SIDE, SIDE), p=probabilities).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = IGNORE
    return torch.from_numpy(label)


def entropy(frequencies: np.ndarray) -> float:
    return float(-sum(p * math.log(p) for p in frequencies if p > 0))


def frequencies(label: Tensor, values: int) -> np.ndarray:
    known = label[label != IGNORE].numpy()
    return np.bincount(known, minlength=values) / len(known)


SEGMENTATION = Task(name="t", kind=TaskKind.SEGMENTATION, classes=CLASSES)


@pytest.mark.parametrize("probabilities", [[0.5, 0.3, 0.2], [0.97, 0.02, 0.01], [1 / 3] * 3])
def test_segmentation_comes_to_the_entropy_of_the_classes(probabilities: list[float]) -> None:
    label = drawn(probabilities, 0)
    assert constant(SEGMENTATION, label) == pytest.approx(entropy(frequencies(label, 3)), abs=2e-3)


def test_several_batches_weigh_alike_whatever_their_valid_pixels() -> None:
    one, other = drawn([0.8, 0.1, 0.1], 1), drawn([0.1, 0.1, 0.8], 2)
    other[:, 4:] = IGNORE
    mean = (frequencies(one, 3) + frequencies(other, 3)) / 2
    assert constant(SEGMENTATION, one, other) == pytest.approx(entropy(mean), abs=2e-3)


def test_batches_without_labels_do_not_count() -> None:
    label = drawn([0.5, 0.3, 0.2], 3)
    assert constant(SEGMENTATION, label, torch.full_like(label, IGNORE)) == constant(SEGMENTATION, label)


def test_classification_comes_to_the_entropy_of_the_classes() -> None:
    task = Task(name="t", kind=TaskKind.CLASSIFICATION, classes=CLASSES)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1])
    assert constant(task, label) == pytest.approx(entropy(np.array([4, 2, 1]) / 7), abs=2e-3)


@pytest.mark.parametrize(("weight", "share"), [(0.95, 0.05), (0.8, 0.3), (0.5, 0.5)])
def test_edges_by_their_weight(weight: float, share: float) -> None:
    """w f log s + (1 - w) (1 - f) log (1 - s) is greatest where s is the weighted share of edges."""
    task = Task(name="t", kind=TaskKind.EDGE, edge_positive_weight=weight)
    label = drawn([1 - share, share], 4)
    f = frequencies(label, 2)[1]
    edges, others = weight * f, (1 - weight) * (1 - f)
    s = edges / (edges + others)
    expected = -edges * math.log(s) - others * math.log(1 - s)
    assert constant(task, label) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_balanced_binary_is_undecided(share: float) -> None:
    """Both classes weigh alike in all, so that one half is best: 2 f (1 - f) log 2."""
    label = drawn([1 - share, share], 5)
    f = frequencies(label, 2)[1]
    found = constant(Task(name="t", kind=TaskKind.BINARY), label)
    assert found == pytest.approx(2 * f * (1 - f) * math.log(2), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "scale", "shift"), [("depth", 3.0, 0.5), ("depth", 4000.0, 100.0), ("regression", 1.0, -7)]
)
def test_depth_and_regression_come_to_the_mean_deviation_from_the_median(kind: str, scale: float, shift: float) -> None:
    rng = np.random.default_rng(6)
    label = (rng.exponential(scale, (2, SIDE, SIDE)) + shift).astype(np.float32)
    label[rng.random(label.shape) < 0.2] = np.nan
    known = label[np.isfinite(label)].astype(np.float64)
    expected = np.abs(known - np.median(known)).mean()
    assert constant(Task(name="t", kind=TaskKind(kind)), torch.from_numpy(label)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_normals_by_a_fine_grid_of_directions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.tensor([0.3, -0.8, 0.5])[None, :, None, None]
    label = F.normalize(middle + 0.7 * torch.randn(2, 3, SIDE, SIDE, generator=generator), dim=1)
    label[:, :, :5] = 0.0  # no label
    known = label.movedim(1, -1).reshape(-1, 3)
    known = known[(known != 0).any(dim=1)].double()
    angles = torch.linspace(0, torch.pi, 181, dtype=torch.float64)
    polar, around = torch.meshgrid(angles, torch.cat([angles, angles[1:] + torch.pi]), indexing="ij")
    grid = torch.stack([polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos()], dim=-1).reshape(-1, 3)
    by_component = [_mean_distance(grid[:, c].contiguous(), known[:, c]) for c in range(3)]
    expected = float(torch.stack(by_component).mean(dim=0).min())
    found = constant(Task(name="t", kind=TaskKind.NORMALS), label)
    assert expected - 5e-3 <= found <= expected + 1e-3  # the grid is a degree wide


def _mean_distance(points: Tensor, values: Tensor) -> Tensor:
    """Return the mean of |point - value| over all values for each point."""
    return torch.cat([(chunk[:, None] - values).abs().mean(dim=1) for chunk in points.split(4096)])


def test_large_labels_are_thinned_out_evenly() -> None:
    """Squares of eight pixels at 128 x 128: of every fourth pixel the classes are as frequent as of all."""
    rows = torch.tensor([0, 0, 0, 1, 0, 2, 0, 1] * 2, dtype=torch.uint8).repeat_interleave(8)
    label = rows[None, :, None].expand(2, 128, 128).contiguous()
    expected = entropy(np.array([5, 2, 1]) / 8)
    assert constant(SEGMENTATION, label) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (TaskKind.SEGMENTATION, torch.full((2, SIDE, SIDE), IGNORE, dtype=torch.uint8)),
        (TaskKind.EDGE, torch.full((2, SIDE, SIDE), IGNORE, dtype=torch.uint8)),
        (TaskKind.BINARY, torch.full((2, SIDE, SIDE), IGNORE, dtype=torch.uint8)),
        (TaskKind.DEPTH, torch.full((2, SIDE, SIDE), math.nan)),
        (TaskKind.REGRESSION, torch.full((2, SIDE, SIDE), math.nan)),
        (TaskKind.NORMALS, torch.zeros(2, 3, SIDE, SIDE)),
        (TaskKind.CLASSIFICATION, torch.tensor([-1, -1])),
    ],
)
def test_without_any_label_there_is_no_constant(kind: TaskKind, label: Tensor) -> None:
    classes = CLASSES if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION) else ()
    assert math.isnan(constant(Task(name="t", kind=kind, classes=classes), label, label))


def test_every_task_has_its_own() -> None:
    edge = Task(name="edge", kind=TaskKind.EDGE)
    labels = {"t": drawn([0.5, 0.3, 0.2], 7), "edge": torch.full((3, SIDE, SIDE), IGNORE, dtype=torch.uint8)}
    found = constant_losses([Batch(torch.zeros(3, 3, SIDE, SIDE), labels, ("0", "1", "2"))], [SEGMENTATION, edge])
    assert list(found) == ["t", "edge"]
    assert found["t"] == pytest.approx(entropy(frequencies(labels["t"], 3)), abs=2e-3)
    assert math.isnan(found["edge"])

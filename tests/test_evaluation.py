"""Evaluation: the best constant is the best one, and a network is measured without being changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from skimage.morphology import thin
from torch import Tensor, nn

import bmtas.edges
from bmtas.data.batches import Batch
from bmtas.evaluation import evaluate_constants, evaluate_network, metrics_json
from bmtas.tasks import Task, TaskKind

NAN = float("nan")
SEGMENTATION = Task(name="t", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c", "d"))
NORMALS = Task(name="t", kind=TaskKind.NORMALS)
Floats = npt.NDArray[np.float64]


def batches(*labels: Tensor) -> list[Batch]:
    return [Batch(torch.zeros(len(y), 3, 4, 4), {"t": y}, ("",) * len(y)) for y in labels]


def best(task: Task, *labels: Tensor) -> float:
    return evaluate_constants(lambda: batches(*labels), (task,))["t"]


def normals(vectors: Floats) -> Tensor:
    """Return labels (1, 3, 1, n)."""
    return torch.from_numpy(vectors.T[None, :, None].copy()).float()


def directions(count: int = 4000) -> Floats:
    """Return directions that cover the sphere evenly (a Fibonacci spiral)."""
    i = np.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    return np.stack([np.cos(turn) * np.sqrt(1 - z**2), np.sin(turn) * np.sqrt(1 - z**2), z], axis=1)


def least_mean_angle(vectors: Floats) -> float:
    """Return the least mean angle of any direction of a grid, or of the vectors themselves, in degrees."""
    candidates = np.concatenate([directions(), vectors])
    return float(np.degrees(np.arccos(np.clip(candidates @ vectors.T, -1, 1))).mean(axis=1).min())


@pytest.mark.parametrize("seed", range(4))
def test_no_class_everywhere_is_better_than_the_best_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice(4, p=rng.dirichlet([1, 1, 1, 1]), size=(3, 4, 4)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    valid = label[label != 255]
    scores = []
    for constant in range(4):
        present = set(valid.tolist()) | {constant}
        scores.append(np.mean([(valid == c).mean() if c == constant else 0.0 for c in present]))
    found = best(SEGMENTATION, torch.from_numpy(label[:1]), torch.from_numpy(label[1:]))
    assert found == pytest.approx(max(scores), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # all foreground: 1/4 and 3/4; none: 0 and 0
        ([[1, 0, 0, 0], [1, 1, 1, 0]], 1 / 2),
        # none: 1, 1 and 0; all: 0, 0 and 1/2
        ([[0, 0, 0, 255], [0, 0, 0, 0], [1, 1, 0, 0]], 2 / 3),
    ],
)
def test_the_best_constant_of_a_binary_task(rows: list[list[int]], expected: float) -> None:
    label = torch.tensor(rows, dtype=torch.uint8)[:, None]
    assert best(Task(name="t", kind=TaskKind.BINARY), label) == pytest.approx(expected)


def test_the_best_constant_of_an_edge_task_marks_every_pixel() -> None:
    # a row is as thin as it gets: P 1/3, R 1
    row = torch.tensor([[1, 0, 0, 255]], dtype=torch.uint8)[:, None]
    assert best(Task(name="t", kind=TaskKind.EDGE), row) == pytest.approx(1 / 2)
    # of 5 x 5 pixels thinning leaves the middle one: P 1, R 1/4
    square = torch.zeros(1, 5, 5, dtype=torch.uint8)
    square[0, 2, 1:] = 1
    assert thin(np.ones((5, 5))).tolist() == (np.indices((5, 5)) == 2).all(axis=0).tolist()
    assert best(Task(name="t", kind=TaskKind.EDGE), square) == pytest.approx(2 / 5)


@pytest.mark.parametrize("kind", [TaskKind.DEPTH, TaskKind.REGRESSION])
def test_no_depth_everywhere_is_better_than_the_best_one(kind: TaskKind) -> None:
    label = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 9 + 0.5
    label[0, 0] = NAN
    values = label[torch.isfinite(label)].double().numpy()
    grid = [np.sqrt(((values - constant) ** 2).mean()) for constant in np.linspace(0, 10, 2001)]
    found = best(Task(name="t", kind=kind), label[:1], label[1:])
    assert found <= min(grid) + 1e-6
    assert found == pytest.approx(values.std(), abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_no_direction_everywhere_is_better_than_the_best_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(40, 3))
    vectors[:, 2] = -np.abs(vectors[:, 2])  # surfaces that are seen face the camera
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert best(NORMALS, normals(vectors)) <= least_mean_angle(vectors) + 0.05


@pytest.mark.parametrize("shares", [(30, 5, 5), (14, 13, 13), (20, 10, 10), (18, 11, 11), (19, 19, 2), (39, 1, 0)])
def test_no_direction_is_better_in_a_room_of_three_orientations(shares: tuple[int, int, int]) -> None:
    vectors = np.repeat(np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]), shares, axis=0)
    assert best(NORMALS, normals(vectors)) <= least_mean_angle(vectors) + 0.05


def test_no_direction_is_better_where_the_vectors_cancel_out() -> None:
    # three directions 120 degrees apart: their mean is 0; each of them is at 0, 120 and 120 degrees: 80
    turn = np.radians([0, 120, 240])
    vectors = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    assert best(NORMALS, normals(vectors)) <= 80 + 0.05


def test_invalid_normals_do_not_enter_the_best_direction() -> None:
    label = torch.zeros(1, 3, 1, 10)
    label[0, 2, 0, 0] = -1.0
    assert best(NORMALS, label) == pytest.approx(0, abs=0.1)


def test_the_best_class_of_images() -> None:
    task = Task(name="t", kind=TaskKind.CLASSIFICATION, classes=("a", "b", "c"))
    assert best(task, torch.tensor([2, 1, -1, 2]), torch.tensor([2, 0])) == pytest.approx(3 / 5)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_without_labels_there_is_no_best_constant(kind: TaskKind) -> None:
    classes = ("a", "b") if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION) else ()
    label = {
        TaskKind.NORMALS: torch.zeros(2, 3, 2, 2),
        TaskKind.DEPTH: torch.full((2, 2, 2), NAN),
        TaskKind.REGRESSION: torch.full((2, 2, 2), NAN),
        TaskKind.CLASSIFICATION: torch.tensor([-1, -1]),
    }.get(kind, torch.full((2, 2, 2), 255, dtype=torch.uint8))
    assert math.isnan(best(Task(name="t", kind=kind, classes=classes), label))


class Norm(nn.Module):
    """Predicts the normalised first channel: differs between training and evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"t": self.norm(image[:, :1])}


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_measured_in_evaluation_mode_and_left_as_it_came(training: bool) -> None:
    network = Norm().train(training)
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 3
    label = images[:, 0] - 2.0
    given = [Batch(images[i : i + 2], {"t": label[i : i + 2]}, ("", "")) for i in (0, 2)]
    found = evaluate_network(network, given, (Task(name="t", kind=TaskKind.REGRESSION),))
    # running mean 0, variance 1: the prediction is image / sqrt(1 + 1e-5)
    assert found == {"t": {"rmse": pytest.approx(2.0, abs=1e-4), "mean_abs": pytest.approx(2.0, abs=1e-4)}}
    assert network.training is training
    assert network.norm.training is training
    assert network.norm.running_mean is not None
    assert float(network.norm.running_mean) == 0


class Lines(nn.Module):
    """Predicts the first channel of the image, and fails at an image of nothing but 9."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if (image == 9).all():
            raise ArithmeticError("nine")
        return {"t": image[:, :1]}


@pytest.mark.parametrize("fails", [False, True])
def test_processes_that_count_edges_end_with_the_evaluation(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(bmtas.edges, "_PIXELS_AT_HOME", 0)  # processes from the first pixel on
    monkeypatch.setattr(bmtas.edges, "_cores", lambda: 2)
    label = torch.zeros(1, 30, 40, dtype=torch.uint8)
    label[:, :, 20] = 1
    images = (label[:, None].expand(1, 3, 30, 40) * 2.0 - 1) * 5
    began: list[psutil.Process] = []

    def given() -> Iterator[Batch]:
        yield Batch(images, {"t": label}, ("",))
        # multiprocessing's tracker of resources is none of them and stays
        began.extend(child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline()))
        yield Batch(torch.full_like(images, 9) if fails else images, {"t": label}, ("",))

    task = Task(name="t", kind=TaskKind.EDGE)
    if fails:
        with pytest.raises(ArithmeticError, match="nine"):
            evaluate_network(Lines(), given(), (task,))
    else:
        assert evaluate_network(Lines(), given(), (task,))["t"]["ods_f"] == 1
    assert began
    assert psutil.wait_procs(began, timeout=60)[1] == []


def test_the_file_of_metrics_has_no_nan() -> None:
    tasks = (SEGMENTATION, Task(name="d", kind=TaskKind.DEPTH))
    # the metric that is compared need not stand first
    values = {"t": {"miou_all": NAN, "miou": 0.5, "pixel_accuracy": 0.75}, "d": {"rmse_m": NAN, "delta_1": 0.25}}
    data = metrics_json(tasks, values, {"t": NAN, "d": 1.5}, size=(32, 48), images=7)
    assert json.loads(json.dumps(data, allow_nan=False)) == {
        "schema_version": 1,
        "split": "val",
        "size": [32, 48],
        "images": 7,
        "tasks": {
            "t": {
                "metric": "miou",
                "higher_is_better": True,
                "value": 0.5,
                "best_constant": None,
                "more": {"miou_all": None, "pixel_accuracy": 0.75},
            },
            "d": {
                "metric": "rmse_m",
                "higher_is_better": False,
                "value": None,
                "best_constant": 1.5,
                "more": {"delta_1": 0.25},
            },
        },
    }

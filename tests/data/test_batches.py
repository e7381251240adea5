"""Batches: decided by the seed and the iteration alone, every image once in an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader, collate, image_tensor, split_indices
from bmtas.data.protocol import Sample
from bmtas.data.scenes import Scenes
from bmtas.errors import UsageError
from bmtas.losses import task_loss
from bmtas.metrics import build_metric
from bmtas.tasks import Task, TaskKind

SIZE = (32, 32)
PLAIN = Augmentation(flip=False)
FULL = Augmentation(flip=True, scales=(0.5, 1.0, 1.5))
ALL_KINDS = tuple(
    Task(
        name=kind.value,
        kind=kind,
        classes=("a", "b") if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION) else (),
    )
    for kind in TaskKind
)


class Numbers:
    """Ten images, each filled with its own number, whose label is that number too."""

    name = "numbers"
    tasks = (Task(name="value", kind=TaskKind.REGRESSION),)
    size = (4, 4)

    def __init__(self) -> None:
        self.loaded: Counter[int] = Counter()

    def ids(self, split: str) -> Sequence[str]:
        return [f"{split}{i}" for i in range(10)]

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        self.loaded[index] += 1
        image = np.full((*size, 3), index, dtype=np.uint8)
        labels = {name: np.full(size, index, dtype=np.float32) for name in tasks}
        return Sample(f"{split}{index}", image, labels)

    def fingerprint(self) -> str:
        return "numbers"


@pytest.fixture
def loader() -> Loader:
    return Loader(Numbers(), "train", Numbers.tasks, (4, 4))


@pytest.fixture(scope="module")
def scenes() -> Loader:
    data = Scenes()
    return Loader(data, "train", data.tasks, SIZE)


@pytest.fixture
def opened() -> Iterator[list[Batches]]:
    kept: list[Batches] = []
    yield kept
    for batches in kept:
        batches.close()


def same(a: Batch, b: Batch) -> bool:
    labels = all(torch.equal(torch.nan_to_num(a.labels[n]), torch.nan_to_num(b.labels[n])) for n in a.labels)
    return a.ids == b.ids and torch.equal(a.images, b.images) and labels and a.labels.keys() == b.labels.keys()


def test_a_batch_is_the_same_whatever_was_asked_for_before(scenes: Loader, opened: list[Batches]) -> None:
    indices = list(range(7))
    straight, jumping = (Batches(scenes, indices, 3, 5, FULL) for _ in range(2))
    opened += [straight, jumping]
    in_order = [straight[i] for i in range(5)]
    for i in (4, 0, 0, 3, 1, 2, 3):
        assert same(jumping[i], in_order[i])
    anew = Batches(scenes, indices, 3, 5, FULL)
    opened.append(anew)
    assert same(anew[4], in_order[4])  # a run that goes on where it was killed


def test_other_seeds_give_other_batches(scenes: Loader, opened: list[Batches]) -> None:
    a, b = (Batches(scenes, range(7), 3, seed, FULL) for seed in (0, 1))
    opened += [a, b]
    assert not same(a[0], b[0])


@pytest.mark.parametrize("size", [2, 5])
def test_every_image_comes_once_in_an_epoch(loader: Loader, opened: list[Batches], size: int) -> None:
    batches = Batches(loader, range(10), size, 0, PLAIN)
    opened.append(batches)
    assert batches.per_epoch == 10 // size
    epochs = []
    for epoch in range(3):
        ids = [i for n in range(batches.per_epoch) for i in batches[epoch * batches.per_epoch + n].ids]
        assert sorted(ids) == sorted(f"train{i}" for i in range(10))
        epochs.append(tuple(ids))
    assert len(set(epochs)) == 3  # each time in another order


def test_an_incomplete_last_batch_is_dropped_and_no_image_comes_twice(loader: Loader, opened: list[Batches]) -> None:
    batches = Batches(loader, range(10), 4, 0, PLAIN)
    opened.append(batches)
    assert batches.per_epoch == 2
    ids = [i for n in range(2) for i in batches[n].ids]
    assert len(set(ids)) == 8
    left_out = set(range(10)) - {int(i[5:]) for i in ids}
    seen = {int(i[5:]) for n in range(24) for i in batches[n].ids}
    assert left_out <= seen  # what one epoch leaves out, another has


def test_only_the_given_indices_come(loader: Loader, opened: list[Batches]) -> None:
    batches = Batches(loader, [1, 4, 7], 3, 0, PLAIN)
    opened.append(batches)
    for n in range(4):
        assert sorted(batches[n].ids) == ["train1", "train4", "train7"]


def test_image_and_label_of_a_batch_belong_together(loader: Loader, opened: list[Batches]) -> None:
    batches = Batches(loader, range(10), 5, 0, PLAIN)
    opened.append(batches)
    batch = batches[1]
    for name, image, label in zip(batch.ids, batch.images, batch.labels["value"], strict=True):
        number = int(name.removeprefix("train"))
        assert torch.equal(label, torch.full((4, 4), float(number)))
        torch.testing.assert_close(image, torch.full((3, 4, 4), number / 255 * 2 - 1))


def test_fewer_images_than_a_batch_come_several_times_in_it(loader: Loader) -> None:
    few = Batches(loader, [0, 1, 2], 7, 0, PLAIN)
    counts = Counter(few[0].ids)
    few.close()
    assert sorted(counts.values()) == [2, 2, 3]
    assert set(counts) == {"train0", "train1", "train2"}


def test_no_image_at_all_is_refused(loader: Loader) -> None:
    with pytest.raises(UsageError, match=r"leaves none for this phase; add images"):
        Batches(loader, [], 4, 0, PLAIN)


def test_a_split_of_few_images_leaves_neither_side_empty() -> None:
    assert [len(part) for part in split_indices(3, 0.1, 0)] == [1, 2]
    assert [len(part) for part in split_indices(2, 0.9, 0)] == [1, 1]


def test_samples_are_decoded_once(loader: Loader) -> None:
    for _ in range(3):
        assert loader[2].id == "train2"
    assert list(loader.in_order(4))[2].ids == ("train8", "train9")
    assert isinstance(loader.dataset, Numbers)
    assert loader.dataset.loaded == Counter(range(10))


def test_samples_in_their_own_order(loader: Loader) -> None:
    assert [batch.ids for batch in loader.in_order(4)] == [
        ("train0", "train1", "train2", "train3"),
        ("train4", "train5", "train6", "train7"),
        ("train8", "train9"),
    ]
    assert sum(len(batch.ids) for batch in loader.in_order(3, limit=99)) == 10


def test_a_limit_takes_samples_from_all_over_the_split(loader: Loader) -> None:
    """A list is often sorted by place or class, so that its first images are alike."""
    assert [batch.ids for batch in loader.in_order(3, limit=5)] == [
        ("train1", "train3", "train5"),
        ("train7", "train9"),
    ]
    assert [batch.ids for batch in loader.in_order(4, limit=1)] == [("train5",)]
    assert list(loader.in_order(4, limit=0)) == []


class Alphabets(Numbers):
    """Of whose ten images the even ones have a label of `value`, and none of `other`."""

    tasks = (Task(name="value", kind=TaskKind.REGRESSION), Task(name="other", kind=TaskKind.REGRESSION))

    def labelled(self, split: str, tasks: Sequence[str]) -> Sequence[int]:
        return [0, 2, 4, 6, 8] if "value" in tasks else []


def test_images_without_a_label_of_the_tasks_are_left_out(opened: list[Batches]) -> None:
    loader = Loader(Alphabets(), "train", Alphabets.tasks[:1], (4, 4))
    assert loader.count == 5
    assert [batch.ids for batch in loader.in_order(5)] == [("train0", "train2", "train4", "train6", "train8")]
    assert loader.batch([1, 4]).ids == ("train2", "train8")
    batches = Batches(loader, range(loader.count), 5, 0, PLAIN)
    opened.append(batches)
    assert sorted(batches[0].ids) == ["train0", "train2", "train4", "train6", "train8"]
    with pytest.raises(
        UsageError, match=r"^numbers: no image of the split 'val' has a label of other; choose other tasks"
    ):
        Loader(Alphabets(), "val", Alphabets.tasks[1:], (4, 4))


class AllLabelled(Numbers):
    def labelled(self, split: str, tasks: Sequence[str]) -> Sequence[int]:
        return list(range(10))


def test_where_all_are_labelled_nothing_changes(loader: Loader, opened: list[Batches]) -> None:
    told = Batches(Loader(AllLabelled(), "train", Numbers.tasks, (4, 4)), range(10), 3, 5, FULL)
    plain = Batches(loader, range(10), 3, 5, FULL)
    opened += [told, plain]
    assert all(same(told[i], plain[i]) for i in range(7))


def test_images_are_between_minus_one_and_one() -> None:
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    image[0, 1] = (255, 51, 204)
    tensor = image_tensor(image)
    assert tensor.shape == (3, 2, 3)
    assert tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor([1.0, -0.6, 0.6]))


def test_images_of_scenes_use_the_range(scenes: Loader) -> None:
    images = next(scenes.in_order(4)).images
    assert images.shape == (4, 3, *SIZE)
    assert -1 <= float(images.min()) < -0.2
    assert 0.2 < float(images.max()) <= 1


def test_forms_of_the_labels(scenes: Loader) -> None:
    labels = next(scenes.in_order(2)).labels
    for task in scenes.tasks:
        shape = (2, 3, *SIZE) if task.kind is TaskKind.NORMALS else (2, *SIZE)
        assert tuple(labels[task.name].shape) == shape, task.name
    length = labels["normals"].norm(dim=1)
    torch.testing.assert_close(length[length > 0], torch.ones(int((length > 0).sum())), atol=1e-4, rtol=0)


def test_a_missing_label_is_invalid_everywhere() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    labels = collate([Sample("a", image, {}), Sample("b", image, {})], ALL_KINDS).labels
    for name in ("segmentation", "binary", "edge"):
        assert torch.equal(labels[name], torch.full((2, 4, 6), 255, dtype=torch.uint8))
    assert torch.equal(labels["normals"], torch.zeros(2, 3, 4, 6))
    for name in ("depth", "regression"):
        assert labels[name].shape == (2, 4, 6)
        assert labels[name].isnan().all()
    assert labels["classification"].tolist() == [-1, -1]
    for task in ALL_KINDS:
        shape = (2, task.channels, 4, 6) if task.dense else (2, task.channels)
        prediction, metric = torch.randn(shape, generator=torch.Generator().manual_seed(0)), build_metric(task)
        assert float(task_loss(task, prediction, labels[task.name])) == 0
        metric.update(prediction, labels[task.name])
        assert np.isnan(list(metric.compute().values())).all()


def test_present_and_missing_labels_stand_in_one_batch() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    given = {
        "segmentation": np.array([[0, 1], [1, 255]], dtype=np.uint8),
        "depth": np.array([[1.5, 2], [np.nan, 3]], dtype=np.float32),
        "classification": np.array(1),
        "normals": np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    }
    labels = collate([Sample("a", image, given), Sample("b", image, {})], ALL_KINDS).labels
    assert labels["segmentation"].tolist() == [[[0, 1], [1, 255]], [[255, 255], [255, 255]]]
    assert labels["depth"][0, 0].tolist() == [1.5, 2]
    assert labels["depth"].isnan().sum() == 5
    assert labels["classification"].tolist() == [1, -1]
    assert labels["normals"][0, :, 0, 1].tolist() == [3, 4, 5]


@pytest.mark.parametrize(("count", "share"), [(10, 0.2), (4998, 0.2), (7, 0.5), (1, 0.2)])
def test_a_split_is_complete_and_nothing_is_in_both_parts(count: int, share: float) -> None:
    first, rest = split_indices(count, share, 3)
    assert sorted(first + rest) == list(range(count))
    assert abs(len(first) - count * share) <= 0.5


def test_the_seed_decides_the_split() -> None:
    assert split_indices(100, 0.2, 3) == split_indices(100, 0.2, 3)
    assert split_indices(100, 0.2, 3) != split_indices(100, 0.2, 4)
    assert split_indices(100, 0.2, 3)[0] != list(range(20))

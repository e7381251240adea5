"""The data set `planted`: its numbers read back from the images alone, its labels by torch, its promises and its errors."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from bmtas.architecture import BranchedArchitecture
from bmtas.config import Estimator
from bmtas.data.augment import Augmentation, augment
from bmtas.data.planted import PARTING_LAYER, PLANTED_PAIRS, TASKS, VERSION, Planted, planted_groupings
from bmtas.data.protocol import Dataset, Sample
from bmtas.data.source import canonical, open_dataset, open_with_tasks
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.tiny import NARROW, NARROWING, WIDE

ALL = ["a1", "a2", "b1", "b2"]
RECORD = "525a91293dfb6fb3538ee6032bacb7fbf7d43fa4914db8c1360fca91fcf9da7a"
IMAGES = 40
# A number's error from rounding is at most 0.5 / 60 of its range, if all pixels of a cell were rounded to its disadvantage.
ROUNDING = 0.5 / 60
Floats = npt.NDArray[np.float64]

# The patterns drawn by hand: + brighter, - darker; which colour they change; 16 pixels of a cell.
DRAWN = {
    "ax": (0, "++-- ++-- ++-- ++--"),
    "ay": (1, "++++ ++++ ---- ----"),
    "az": (2, "+--+ -++- -++- +--+"),
    "bx": (0, "+-+- +-+- +-+- +-+-"),
    "by": (1, "++++ ---- ++++ ----"),
    "bz": (2, "++++ ---- ---- ++++"),
}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    data: Dataset = Planted()
    return [data.load("train", i, size=(32, 32), tasks=ALL) for i in range(IMAGES)]


def read(image: npt.NDArray[np.uint8]) -> Floats:
    """Read the six numbers of each cell, (8, 8, 6), off an image of 32 x 32 pixels, knowing only how patterns look."""
    cells = (image.astype(float) - 127.5).reshape(8, 4, 8, 4, 3).transpose(0, 2, 1, 3, 4)
    signs = {
        name: np.array([[1 if c == "+" else -1 for c in row] for row in text.split()])
        for name, (_, text) in DRAWN.items()
    }
    return np.stack(
        [(cells[..., colour] * signs[name]).mean(axis=(2, 3)) / 60 for name, (colour, _) in DRAWN.items()], axis=-1
    )


def expected_labels(numbers: Floats, size: tuple[int, int] = (32, 32)) -> dict[str, Floats]:
    """The labels as torch enlarges and normalises, (H, W, 3) each."""
    large = F.interpolate(torch.from_numpy(numbers.transpose(2, 0, 1))[None], size=size, mode="bilinear")[0]
    labels = {}
    for name, vector in zip("ab", (large[:3], large[3:]), strict=True):
        x, y, z = F.normalize(vector, dim=0).numpy()
        labels[f"{name}1"], labels[f"{name}2"] = np.stack([x, y, z], axis=-1), np.stack([x, z, -y], axis=-1)
    return labels


def test_forms_of_the_labels(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.image.shape == (32, 32, 3)
        assert sample.image.dtype == np.uint8
        assert list(sample.labels) == ALL
        for label in sample.labels.values():
            assert label.dtype == np.float32
            assert label.shape == (32, 32, 3)
            np.testing.assert_allclose(np.linalg.norm(label, axis=-1), 1, atol=1e-5)


def test_numbers_can_be_read_off_the_image(samples: list[Sample]) -> None:
    for index, sample in enumerate(samples):
        np.testing.assert_allclose(read(sample.image), Planted().vectors("train", index), atol=ROUNDING)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (40, 50)])
def test_labels_are_what_torch_makes_of_the_numbers(size: tuple[int, int]) -> None:
    for index in range(5):
        expected = expected_labels(Planted().vectors("train", index), size)
        sample = Planted().load("train", index, size=size, tasks=ALL)
        for name in ALL:
            np.testing.assert_allclose(sample.labels[name].astype(float), expected[name], atol=1e-5)


def test_labels_at_the_cells_centres_are_the_cells_own() -> None:
    # At 40 x 40 pixels a cell has 5 x 5, whose middle one is the centre.
    numbers = Planted().vectors("val", 3)
    label = Planted().load("val", 3, size=(40, 40), tasks=["b2"]).labels["b2"][2::5, 2::5].astype(float)
    x, y, z = np.moveaxis(numbers[..., 3:], -1, 0)
    np.testing.assert_allclose(label, np.stack([x, z, -y], -1) / np.sqrt(x * x + y * y + z * z)[..., None], atol=1e-5)


def test_mirroring_keeps_the_answer(samples: list[Sample]) -> None:
    mirrored = 0
    for seed, sample in enumerate(samples):
        other = augment(sample, TASKS, Augmentation(), np.random.default_rng(seed))
        mirrored += not np.array_equal(other.image, sample.image)
        expected = expected_labels(read(other.image))
        for name in ALL:
            # Short vectors turn by more than the rounding of their numbers; few are shorter than a tenth.
            assert np.quantile(np.abs(other.labels[name].astype(float) - expected[name]), 0.99) < 10 * ROUNDING
    assert 5 < mirrored < IMAGES - 5


def test_numbers_are_independent_and_even() -> None:
    numbers = np.concatenate([Planted().vectors("train", i).reshape(-1, 6) for i in range(200)])
    np.testing.assert_allclose(np.corrcoef(numbers.T), np.eye(6), atol=0.03)  # 12 800 cells: a deviation of 0.009
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(numbers.var(axis=0), 1 / 3, atol=0.01)


def trees(layers: int) -> Iterator[tuple[tuple[frozenset[str], ...], ...]]:
    """All trees of the four tasks, as partitions of each layer that refine the one before."""

    def partitions(items: tuple[str, ...]) -> Iterator[tuple[frozenset[str], ...]]:
        if not items:
            yield ()
            return
        for size in range(len(items)):
            for others in itertools.combinations(items[1:], size):
                rest = tuple(i for i in items[1:] if i not in others)
                for more in partitions(rest):
                    yield (frozenset((items[0], *others)), *more)

    every = list(partitions(tuple(ALL)))
    finer = {p: [q for q in every if all(any(b <= a for a in p) for b in q)] for p in every}

    def grown(tree: tuple[tuple[frozenset[str], ...], ...]) -> Iterator[tuple[tuple[frozenset[str], ...], ...]]:
        if len(tree) == layers:
            yield tree
            return
        for following in finer[tree[-1]] if tree else every:
            yield from grown((*tree, following))

    return grown(())


def test_no_other_tree_of_its_cost_keeps_the_pairs_apart_in_the_narrow_layers() -> None:
    # Six numbers pass a wide layer, and those of one pair a narrow one; all layers cost the same.
    assert WIDE >= 6 > NARROW >= 3
    assert NARROWING == PARTING_LAYER
    lossless = []
    for tree in trees(6):
        narrow = [block for partition in tree[NARROWING:] for block in partition]
        if sum(map(len, tree)) <= 3 * 1 + 3 * 2 and all(len({name[0] for name in block}) == 1 for block in narrow):
            lossless.append(tree)
    planted = tuple(tuple(frozenset(block) for block in grouping) for grouping in planted_groupings(6))
    assert lossless == [planted]


def test_sizes_show_the_same() -> None:
    data = Planted()
    for index in range(4):
        small, large = (data.load("val", index, size=(s, s), tasks=[]) for s in (32, 96))
        np.testing.assert_array_equal(small.image, large.image[1::3, 1::3])


def test_no_image_occurs_twice_in_or_across_splits_and_seeds() -> None:
    images = [Planted().load("train", i, size=(32, 32), tasks=[]).image.tobytes() for i in range(500)]
    images += [Planted().load("val", i, size=(32, 32), tasks=[]).image.tobytes() for i in range(256)]
    images += [Planted(seed=1).load("val", i, size=(32, 32), tasks=[]).image.tobytes() for i in range(256)]
    assert len(set(images)) == len(images)


def test_only_the_labels_asked_for() -> None:
    sample = Planted().load("train", 12, size=(32, 32), tasks=["b2", "a1"])
    assert list(sample.labels) == ["b2", "a1"]
    assert sample.id == "train-000012"
    assert Planted().load("train", 12, size=(32, 32), tasks=[]).labels == {}


def test_protocol() -> None:
    data = Planted(train=3, val=2, size=(64, 96))
    assert data.ids("train") == ["train-000000", "train-000001", "train-000002"]
    assert data.ids("val") == ["val-000000", "val-000001"]
    assert (data.name, data.size) == ("planted", (64, 96))
    assert [(t.name, t.kind.value, t.channels, t.loss_weight) for t in data.tasks] == [
        (name, "normals", 3, 1) for name in ALL
    ]


def test_opened_by_its_name() -> None:
    data, tasks = open_with_tasks("planted", None)
    assert [task.name for task in tasks] == ALL
    assert data.fingerprint() == open_dataset("planted").fingerprint() == Planted().fingerprint()
    assert canonical("planted") == "planted"
    with pytest.raises(UsageError, match="did you mean 'planted'"):
        open_dataset("plantd")


def test_planted_tree() -> None:
    together, apart = (("a1", "a2", "b1", "b2"),), (("a1", "a2"), ("b1", "b2"))
    assert apart == PLANTED_PAIRS
    assert planted_groupings(4, 1) == (together, apart, apart, apart)
    assert planted_groupings(2, 0) == (apart, apart)
    assert planted_groupings(2, 2) == (together, together)
    layers = get_backbone("tiny").layers
    tree = BranchedArchitecture(backbone="tiny", tasks=tuple(ALL), groupings=planted_groupings(layers))
    assert tree.group_counts == (1, 1, 1, 2, 2, 2)
    assert tree.shared_depth("a1", "a2") == tree.shared_depth("b1", "b2") == 6
    assert tree.shared_depth("a1", "b1") == tree.shared_depth("a2", "b2") == 3
    for parting in (-1, 7):
        with pytest.raises(UsageError, match="give 0 to 6"):
            planted_groupings(6, parting)


def test_fingerprint() -> None:
    assert Planted().fingerprint() == Planted(size=(64, 64)).fingerprint()
    others = [Planted(), Planted(seed=1), Planted(train=5), Planted(val=5)]
    assert len({d.fingerprint() for d in others}) == 4


def test_the_version_is_raised_when_the_data_change() -> None:
    # A record, not a truth: if this fails, raise VERSION and write the new hash here.
    sample = Planted().load("train", 0, size=(32, 32), tasks=ALL)
    rounded = [np.rint(100 * sample.labels[name]).astype(np.int8) for name in ALL]
    found = hashlib.sha256(b"".join([sample.image.tobytes(), *(label.tobytes() for label in rounded)])).hexdigest()
    assert (VERSION, found) == (2, RECORD)


def test_errors() -> None:
    data = Planted(train=3, val=2)
    with pytest.raises(UsageError, match="unknown split 'tain'; did you mean 'train'"):
        data.ids("tain")
    with pytest.raises(UsageError, match="known: train, val"):
        data.load("test", 0, size=(32, 32), tasks=ALL)
    with pytest.raises(UsageError, match="unknown task 'a3'"):
        data.load("train", 0, size=(32, 32), tasks=["a3"])
    with pytest.raises(UsageError, match="at least 32"):
        data.load("train", 0, size=(32, 31), tasks=ALL)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="3 images"):
            data.load("train", index, size=(32, 32), tasks=ALL)
    wrong: list[dict[str, object]] = [{"seed": -1}, {"train": 0}, {"val": 0}, {"size": (8, 512)}]
    for parameters in wrong:
        with pytest.raises(UsageError):
            Planted(**parameters)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_search_finds_the_planted_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("planted_search")
    result = benchmark.run_one("budget", Estimator.SOFT, 0, benchmark.options_of([]))
    assert result["layers_different"] <= 2, result

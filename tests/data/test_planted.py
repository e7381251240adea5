"""The data set `planted`: its rules, read back from the images alone, its promises and its errors."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2_contingency

from bmtas.architecture import Architecture
from bmtas.data.planted import PARTING_LAYER, PLANTED_PAIRS, VERSION, Planted, planted_groupings
from bmtas.data.protocol import Dataset, Sample
from bmtas.data.source import canonical, open_dataset, open_with_tasks
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone

ALL = ["a1", "a2", "b1", "b2"]
RECORD = (129.3433, 7911.0, 2918.0)
IMAGES = 300
Ints = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    data: Dataset = Planted()
    return [data.load("train", i, size=(64, 64), tasks=ALL) for i in range(IMAGES)]


def read_cells(image: npt.NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Read patterns and colours, (4, 4) each, off an image of 64 x 64 pixels, knowing only how they look."""
    patterns, colours = np.zeros((2, 4, 4), dtype=np.int64)
    for row in range(4):
        for column in range(4):
            cell = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].astype(int)
            painted = np.ptp(cell, axis=2) > 40  # the ground is grey
            colours[row, column] = cell[painted].mean(axis=0).argmax()
            rows, columns = painted.mean(axis=1), painted.mean(axis=0)
            # Stripes along rows make rows differ and columns alike; checks make neither differ.
            contrast = np.array([np.ptp(rows[rows > 0]), np.ptp(columns[columns > 0])])
            lines = np.array([(rows == 0).sum(), (columns == 0).sum()])
            assert contrast.max() == 0
            patterns[row, column] = {(10, 4): 0, (4, 10): 1, (4, 4): 2}[lines[0], lines[1]]
    return patterns, colours


def most_common(values: Ints) -> int:
    return int(np.bincount(values.ravel() % 3, minlength=3).argmax())


def told(label: npt.NDArray[np.generic]) -> int:
    """Return the hidden number that one label alone tells."""
    values = set(np.unique(label).tolist()) - {0}
    assert len(values) == 1
    return int(values.pop()) - 1


def test_forms_of_the_labels(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.image.shape == (64, 64, 3)
        assert sample.image.dtype == np.uint8
        assert list(sample.labels) == ALL
        for label in sample.labels.values():
            assert label.dtype == np.uint8
            assert label.shape == (64, 64)


def test_every_cell_obeys_what_the_labels_tell(samples: list[Sample]) -> None:
    for sample in samples:
        patterns, colours = read_cells(sample.image)
        a, b = told(sample.labels["a1"]), told(sample.labels["b1"])
        obeys_a, obeys_b = (patterns + colours) % 3 == a, (patterns - colours) % 3 == b
        assert (obeys_a | obeys_b).all()
        assert obeys_a.sum() >= 8
        assert obeys_b.sum() >= 8


def test_hidden_numbers_can_be_read_off_the_image(samples: list[Sample]) -> None:
    right = []
    for sample in samples:
        patterns, colours = read_cells(sample.image)
        right.append(
            (
                most_common(patterns + colours) == told(sample.labels["a1"]),
                most_common(patterns - colours) == told(sample.labels["b1"]),
            )
        )
    # The other half of the cells outvotes the right number now and then, or draws with it.
    assert np.mean(right, axis=0).min() > 0.95


def test_one_label_tells_what_its_mate_does_on_the_other_side(samples: list[Sample]) -> None:
    for sample in samples:
        # Pixels of the ground are grey, and light or dark.
        grey = np.ptp(sample.image.astype(int), axis=2) == 0
        light = sample.image[..., 0] > 125
        for one, two in PLANTED_PAIRS:
            hidden = told(sample.labels[one])
            np.testing.assert_array_equal(sample.labels[one][grey], np.where(light, 1 + hidden, 0)[grey])
            np.testing.assert_array_equal(sample.labels[two][grey], np.where(light, 0, 1 + hidden)[grey])
            np.testing.assert_array_equal((sample.labels[one] > 0), (sample.labels[two] == 0))
        np.testing.assert_array_equal(sample.labels["a1"] > 0, sample.labels["b1"] > 0)


def test_pairs_are_independent_and_no_margin_tells_anything() -> None:
    pictures = [Planted(train=4000).picture("train", i) for i in range(4000)]
    hidden = np.array([(p.a, p.b) for p in pictures])
    tables = {"a, b": np.zeros((3, 3)), "a, joint": np.zeros((3, 9)), "b, joint": np.zeros((3, 9))}
    np.add.at(tables["a, b"], (hidden[:, 0], hidden[:, 1]), 1)
    for column, name in enumerate("ab"):
        for what in ("patterns", "colours"):
            # One cell of each picture, so that the counts are independent draws.
            seen = np.array([getattr(p, what)[i % 4, i // 4 % 4] for i, p in enumerate(pictures)])
            tables[f"{name}, {what}"] = np.zeros((3, 3))
            np.add.at(tables[f"{name}, {what}"], (hidden[:, column], seen), 1)
        joint = np.array([3 * p.patterns[0, 0] + p.colours[0, 0] for p in pictures])
        np.add.at(tables[f"{name}, joint"], (hidden[:, column], joint), 1)
    for name, table in tables.items():
        p_value = chi2_contingency(table).pvalue
        assert (p_value < 1e-50) if "joint" in name else (p_value > 0.01), (name, p_value)


def test_what_a_pair_needs_is_noise_to_the_other() -> None:
    """Cells that obey b lie in each class of pattern + colour as often; the rest of all cells are in a's class."""
    pictures = [Planted(train=4000).picture("train", i) for i in range(4000)]
    for sign, own, other in ((1, "a", "b"), (-1, "b", "a")):
        classes = np.array([(p.patterns + sign * p.colours - getattr(p, own)) % 3 for p in pictures])
        shares = np.bincount(classes.ravel(), minlength=3) / classes.size
        np.testing.assert_allclose(shares, [1 / 2 + 1 / 6, 1 / 6, 1 / 6], atol=0.005)
        given = [classes[np.array([getattr(p, other) for p in pictures]) == value] for value in range(3)]
        for part in given:
            np.testing.assert_allclose(np.bincount(part.ravel()) / part.size, shares, atol=0.01)


def test_classes_are_balanced(samples: list[Sample]) -> None:
    for name in ALL:
        shares = np.bincount(np.array([s.labels[name] for s in samples]).ravel(), minlength=4) / (IMAGES * 64 * 64)
        np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.04)


def test_mirroring_keeps_the_answer_and_swapping_colours_swaps_the_pairs(samples: list[Sample]) -> None:
    for sample in samples:
        patterns, colours = read_cells(sample.image)
        mirrored = read_cells(sample.image[:, ::-1])
        np.testing.assert_array_equal(mirrored[0], patterns[:, ::-1])
        np.testing.assert_array_equal(mirrored[1], colours[:, ::-1])
        swapped = read_cells(sample.image[..., [0, 2, 1]])  # green and blue
        np.testing.assert_array_equal((swapped[0] + swapped[1]) % 3, (patterns - colours) % 3)
        np.testing.assert_array_equal((swapped[0] - swapped[1]) % 3, (patterns + colours) % 3)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (192, 64)])
def test_no_pattern_covers_more_than_another(size: tuple[int, int]) -> None:
    # Otherwise the mean colour of the image, which needs no late feature, would tell the hidden numbers.
    for index in range(8):
        image = Planted().load("train", index, size=size, tasks=[]).image
        painted = np.ptp(image.astype(int), axis=2) > 40
        cells = painted.reshape(4, size[0] // 4, 4, size[1] // 4).sum(axis=(1, 3))
        assert (cells == 72 * size[0] * size[1] // 64**2).all()


def test_picture_does_not_depend_on_size() -> None:
    data = Planted()
    for index in range(4):
        small = data.load("val", index, size=(64, 64), tasks=ALL)
        large = data.load("val", index, size=(192, 192), tasks=ALL)
        np.testing.assert_array_equal(small.image, large.image[1::3, 1::3])
        for name in ALL:
            np.testing.assert_array_equal(small.labels[name], large.labels[name][1::3, 1::3])


def digest(data: Planted, indices: list[int]) -> str:
    """Hash of images and labels, in the order of indices."""
    hashes = {}
    for i in indices:
        sample = data.load("val", i, size=(40, 50), tasks=ALL)
        parts = [sample.image.tobytes(), *(sample.labels[t].tobytes() for t in ALL)]
        hashes[i] = hashlib.sha256(b"".join(parts)).hexdigest()
    return " ".join(hashes[i] for i in sorted(hashes))


def test_equal_bits_in_any_order_and_process() -> None:
    here = digest(Planted(), [2, 0, 1, 0])
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("there", {__file__!r})
there = importlib.util.module_from_spec(spec)
spec.loader.exec_module(there)
print(there.digest(there.Planted(train=7, val=3), [0, 1, 2]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == here.split()
    assert len(set(here.split())) == 3


def test_no_image_occurs_twice_in_or_across_splits_and_seeds() -> None:
    images = [Planted().load("train", i, size=(64, 64), tasks=[]).image.tobytes() for i in range(500)]
    images += [Planted().load("val", i, size=(64, 64), tasks=[]).image.tobytes() for i in range(256)]
    images += [Planted(seed=1).load("val", i, size=(64, 64), tasks=[]).image.tobytes() for i in range(256)]
    assert len(set(images)) == len(images)


def test_only_the_labels_asked_for() -> None:
    sample = Planted().load("train", 12, size=(16, 16), tasks=["b2", "a1"])
    assert list(sample.labels) == ["b2", "a1"]
    assert sample.id == "train-000012"
    assert Planted().load("train", 12, size=(16, 16), tasks=[]).labels == {}


def test_protocol() -> None:
    data = Planted(train=3, val=2, size=(96, 128))
    assert data.ids("train") == ["train-000000", "train-000001", "train-000002"]
    assert data.ids("val") == ["val-000000", "val-000001"]
    assert (data.name, data.size) == ("planted", (96, 128))
    assert [(t.name, t.kind.value, t.channels, t.loss_weight) for t in data.tasks] == [
        (name, "segmentation", 4, 1) for name in ALL
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
    assert planted_groupings(4, 1) == (together, apart, apart, apart)
    assert planted_groupings(2, 0) == (apart, apart)
    assert planted_groupings(2, 2) == (together, together)
    layers = get_backbone("mobilenet_v2").layers
    tree = Architecture(backbone="mobilenet_v2", tasks=tuple(ALL), groupings=planted_groupings(layers))
    assert tree.shared_depth("a1", "a2") == tree.shared_depth("b1", "b2") == layers
    assert tree.shared_depth("a1", "b1") == tree.shared_depth("a2", "b2") == PARTING_LAYER
    for parting in (-1, 19):
        with pytest.raises(UsageError, match="give 0 to 18"):
            planted_groupings(18, parting)


def test_fingerprint() -> None:
    assert Planted().fingerprint() == Planted(size=(128, 128)).fingerprint()
    others = [Planted(), Planted(seed=1), Planted(train=5), Planted(val=5)]
    assert len({d.fingerprint() for d in others}) == 4


def test_the_version_is_raised_when_the_data_change() -> None:
    # A record, not a truth: if this fails, raise VERSION and write the new numbers here.
    sample = Planted().load("train", 0, size=(64, 64), tasks=ALL)
    found = (float(sample.image.mean()), float(sample.labels["a1"].sum()), float(sample.labels["b2"].sum()))
    assert VERSION == 1
    np.testing.assert_allclose(found, RECORD, rtol=0.003)


def test_errors() -> None:
    data = Planted(train=3, val=2)
    with pytest.raises(UsageError, match="unknown split 'tain'; did you mean 'train'"):
        data.ids("tain")
    with pytest.raises(UsageError, match="known: train, val"):
        data.load("test", 0, size=(16, 16), tasks=ALL)
    with pytest.raises(UsageError, match="unknown task 'a3'"):
        data.load("train", 0, size=(16, 16), tasks=["a3"])
    with pytest.raises(UsageError, match="at least 16"):
        data.load("train", 0, size=(16, 15), tasks=ALL)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="3 images"):
            data.load("train", index, size=(16, 16), tasks=ALL)
    wrong: list[dict[str, object]] = [{"seed": -1}, {"train": 0}, {"val": 0}, {"size": (8, 512)}]
    for parameters in wrong:
        with pytest.raises(UsageError):
            Planted(**parameters)  # type: ignore[arg-type]

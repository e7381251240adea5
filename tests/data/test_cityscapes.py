"""Cityscapes as it is downloaded: every value decoded as its facts say, what is missing or wrong is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bmtas.tasks import TaskKind
from tests.data.downloaded import loading, opened, refused, state
from tests.data.mirror import mirrored
from tests.data.trees_cityscapes import H, W, save, write_npy, write_raw

SEMSEG_OF_ID = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The data set's own table of labels: ids that are evaluated, by name."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the tree stands: alone in its folder, which may be named too."""
    return tmp_path / "data"


def test_the_download(root: Path) -> None:
    write_raw(root)
    before = state(root)
    dataset = opened(root)
    assert (dataset.name, dataset.size, dataset.splits) == ("cityscapes", (1024, 2048), ("train", "val"))
    assert dataset.ids("train") == tuple(
        f"train/{name}_000019" for name in ("aachen/aachen_000000", "aachen/aachen_000001", "zurich/zurich_000000")
    )
    assert dataset.layout.expected == {"train": 2975, "val": 500}
    assert [(t.name, t.kind) for t in dataset.tasks] == [
        ("semseg", TaskKind.SEGMENTATION),
        ("disparity", TaskKind.REGRESSION),
    ]
    assert "pixels of the full 2048-wide image" in dataset.layout.remarks[0]
    assert any("never compare absolute" in remark for remark in dataset.layout.remarks)
    sample = dataset.load("train", 1, size=(H, W), tasks=["semseg", "disparity"])
    assert (sample.image == (11, 20, 30)).all()
    classes = dataset.tasks[0].classes
    assert len(classes) == 19
    semseg = sample.labels["semseg"]
    assert semseg.dtype == np.uint8
    for value in range(34):
        found = int(semseg.flat[value])
        assert (classes[found] if found != 255 else None) == SEMSEG_OF_ID.get(value)
    assert [classes.index(name) for name in SEMSEG_OF_ID.values()] == list(range(19))  # the usual train ids
    disparity = sample.labels["disparity"]
    assert disparity.dtype == np.float32
    assert np.isnan(disparity[0, 0])
    assert disparity[0, 1:5].tolist() == [0.0, 1.0, 126.0, 10.0]
    smaller = dataset.load("train", 1, size=(H // 2, W // 2), tasks=["disparity"]).labels["disparity"]
    assert smaller[-1, -1] == 10.0  # nothing is divided by two
    assert dataset.missing() == []
    assert dataset.label_count("semseg") == dataset.label_count("disparity") == 4
    assert dataset.fingerprint() == opened(root).fingerprint()
    assert state(root) == before


def test_a_mirrored_sample_mirrored_again_is_the_sample(root: Path) -> None:
    dataset = opened(write_raw(root))
    sample = dataset.load("train", 0, size=(H, W), tasks=["semseg", "disparity"])
    once = mirrored(sample, dataset.tasks)
    twice = mirrored(once, dataset.tasks)
    for name, label in sample.labels.items():
        assert np.array_equal(once.labels[name].astype(float), label[:, ::-1].astype(float), equal_nan=True)
        assert np.array_equal(twice.labels[name].astype(float), label.astype(float), equal_nan=True)
    assert np.array_equal(twice.image, sample.image)


def test_without_disparity_there_is_one_task(root: Path) -> None:
    dataset = opened(write_raw(root, disparity=False))
    assert [task.name for task in dataset.tasks] == ["semseg"]
    assert "unpack disparity_trainvaltest.zip" in dataset.layout.remarks[0]
    (root / "disparity/train").mkdir(parents=True)
    assert [task.name for task in opened(root).tasks] == ["semseg"]


def test_it_is_found_from_above_and_from_inside(root: Path, tmp_path: Path) -> None:
    write_raw(root)
    ids = opened(root).ids("train")
    for place in (tmp_path, root / "leftImg8bit", root / "gtFine", root / "disparity"):
        dataset = opened(place)
        assert (dataset.layout.root, dataset.ids("train")) == (root, ids)
    for package in ("leftImg8bit", "gtFine", "disparity"):  # each archive in a folder of its own
        (root / f"{package}_trainvaltest").mkdir()
        (root / package).rename(root / f"{package}_trainvaltest" / package)
    for place in (root, root / "gtFine_trainvaltest"):
        dataset = opened(place)
        assert (dataset.layout.root, dataset.ids("train"), len(dataset.tasks)) == (root, ids, 2)
        assert dataset.missing() == []
    (tmp_path / "other").mkdir()
    assert "none of the data sets that are known" in refused(tmp_path)  # two folders: none is guessed


@pytest.mark.parametrize("package", ["leftImg8bit", "gtFine"])
def test_half_a_download_is_refused(root: Path, package: str) -> None:
    write_raw(root)
    shutil.rmtree(root / package)
    assert f"but no {package}/; unpack {package}_trainvaltest.zip in it" in refused(root)


def test_missing_files_are_listed(root: Path) -> None:
    write_raw(root)
    gone = [
        root / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        root / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png",
        root / "disparity/val/munster/munster_000000_000019_disparity.png",
    ]
    for path in gone:
        path.unlink()
    dataset = opened(root)
    assert len(dataset.ids("train")) == 3  # an image that is missing is known by its label
    assert sorted(dataset.missing()) == sorted(gone)
    shutil.rmtree(root / "leftImg8bit/val")
    shutil.rmtree(root / "gtFine/val")
    assert "no id in its split 'val'; complete the download" in refused(root)


def test_wrong_files_are_named(root: Path) -> None:
    dataset = opened(write_raw(root))
    label = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    save(label, np.full((H, W), 255, dtype=np.uint8))
    message = loading(dataset)
    assert f"{label}: value 255 ({H * W} pixels) is no label id, which go from 0 to 33" in message
    assert "labelTrainIds" in message
    save(label, np.full((H, W), 34, dtype=np.uint8))
    assert "value 34" in loading(dataset)
    assert "labelTrainIds" not in loading(dataset)
    save(label, np.zeros((H, W, 3), dtype=np.uint8))
    assert f"{label} holds a colour image (mode RGB)" in loading(dataset)
    save(label, np.zeros((H, W), dtype=np.uint16))
    assert "label ids are an 8-bit image" in loading(dataset)
    save(label, np.zeros((H, W // 2), dtype=np.uint8))
    assert f"{label} is 8 high and 8 wide but its image" in loading(dataset)
    disparity = root / "disparity/train/zurich/zurich_000000_000019_disparity.png"
    save(disparity, np.zeros((H, W), dtype=np.uint8))
    assert f"{disparity} holds an 8-bit grey image (mode L)" in loading(dataset, "train", 2)
    assert "16 bits belongs here" in loading(dataset, "train", 2)


def test_the_images_are_those_of_the_files(root: Path) -> None:
    """Resizing to the size to work at is smooth for images and nearest for labels."""
    write_raw(root)
    dataset = opened(root)
    sample = dataset.load("val", 0, size=(2 * H, 2 * W), tasks=["semseg"])
    with Image.open(root / "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png") as picture:
        ids = np.asarray(picture)
    assert np.array_equal((sample.labels["semseg"] == 0)[::2, ::2], ids == 7)
    assert sample.image.shape == (2 * H, 2 * W, 3)


def test_two_forms_in_one_folder_are_refused(root: Path) -> None:
    write_npy(root, 7)
    write_raw(root)
    assert "move each into a folder of its own" in refused(root)

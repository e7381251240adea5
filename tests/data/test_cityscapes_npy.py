"""Cityscapes as .npy files: every value decoded as its facts say, what is missing or wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bmtas.tasks import TaskKind
from tests.data.downloaded import loading, opened, refused, state
from tests.data.trees_cityscapes import H, W, npy_arrays, save, write_index, write_npy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the tree stands: alone in its folder, which may be named too."""
    return tmp_path / "data"


def test_npy_files_in_folders(root: Path) -> None:
    write_npy(root, 7, name="label")
    before = state(root)
    dataset = opened(root)
    assert (dataset.name, dataset.size, dataset.splits) == ("cityscapes", (H, W), ("train", "val"))
    assert dataset.ids("train") == ("train/0", "train/2", "train/10")
    assert dataset.ids("val") == ("val/0",)
    semseg, disparity = dataset.tasks
    assert semseg.classes == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert (disparity.name, disparity.kind) == ("disparity", TaskKind.REGRESSION)
    assert any("set of 7 classes, by the largest id" in remark for remark in dataset.layout.remarks)
    assert any("never compare absolute errors across sources" in remark for remark in dataset.layout.remarks)
    sample = dataset.load("val", 0, size=dataset.size, tasks=["semseg", "disparity"])
    assert (sample.image == (0, 128, 255)).all()
    assert sample.image.dtype == np.uint8
    assert sample.labels["semseg"][0, :4].tolist() == [255, 1, 6, 0]
    found = sample.labels["disparity"]
    assert found.shape == (H, W)
    assert np.isnan(found[0, :2]).all()
    assert found[0, 2:4].tolist() == [np.float32(0.49), 0.25]
    (root / "train/label/2.npy").unlink()
    assert dataset.missing() == [root / "train/label/2.npy"]
    del before["train/label/2.npy"]
    assert state(root) == before
    for place in (root.parent, root / "train"):
        assert opened(place).layout.root == root


@pytest.mark.parametrize(("count", "last"), [(2, "foreground"), (7, "vehicle"), (19, "bicycle")])
def test_the_set_of_classes_is_told_by_the_folder_or_by_the_largest_id(root: Path, count: int, last: str) -> None:
    write_npy(root / "ids", count, name="label")
    write_npy(root / "named", count)
    for path in root.rglob("named/*/label*/*.npy"):
        save(path, np.zeros((H, W)))  # the ids alone would say 2
    for name in ("ids", "named"):
        dataset = opened(root / name)
        assert (len(dataset.tasks[0].classes), dataset.tasks[0].classes[-1]) == (count, last)
        assert any("foreground is human and vehicle" in r for r in dataset.layout.remarks) == (count == 2)


def test_the_sign_of_the_ignored_value_may_be_lost(root: Path) -> None:
    write_npy(root, 7, name="label")
    for path in root.rglob("label/*.npy"):
        save(path, npy_arrays(6)["label"].astype(np.int8).view(np.uint8))
    dataset = opened(root)
    assert len(dataset.tasks[0].classes) == 7
    assert dataset.load("val", 0, size=(H, W), tasks=["semseg"]).labels["semseg"][0, :3].tolist() == [255, 1, 6]


def test_several_sets_of_classes_are_several_tasks(root: Path) -> None:
    dataset = opened(write_npy(root, 2, 7, 19))
    assert [(t.name, len(t.classes)) for t in dataset.tasks] == [
        ("semseg", 19),
        ("disparity", 0),
        ("semseg_7", 7),
        ("semseg_2", 2),
    ]
    assert dataset.default_tasks == ("semseg", "disparity")
    labels = dataset.load("val", 0, size=(H, W), tasks=["semseg", "semseg_7", "semseg_2"]).labels
    assert [int(label[0, 2]) for label in labels.values()] == [18, 6, 1]


def test_wrong_npy_files_are_named(root: Path) -> None:
    write_npy(root, 7)
    dataset = opened(root)
    label, image, depth = (root / f"train/{name}/0.npy" for name in ("label_7", "image", "depth"))
    save(label, npy_arrays(18)["label"])
    assert f"{label}: value 18 (1 pixels" in loading(dataset)
    assert "it looks like 0 to 18 and -1 for what is ignored (the set of 19 classes)" in loading(dataset)
    save(label, np.full((H, W), 0.5))
    assert "value 0.5" in loading(dataset)
    save(label, np.zeros((H, W, 2)))
    assert "of shape (8, 16, 2)" in loading(dataset)
    np.save(label, np.array([{}], dtype=object), allow_pickle=True)
    assert f"cannot read the array {label}" in loading(dataset)
    for array, told in [
        (
            np.full((H, W, 3), 255, dtype=np.uint8),
            "holds uint8 from 255 to 255; images of this variant are RGB as floats",
        ),
        (np.full((H, W, 3), 128.0), "holds float64 from 128 to 128"),
        (np.full((H, W, 3), np.nan), "holds float64 from nan to nan"),
        (np.zeros((3, H, W)), "of shape (3, 8, 16); an image of this variant is an array (height, width, 3)"),
    ]:
        save(image, array)
        assert told in loading(dataset)
    save(image, npy_arrays(6)["image"])
    save(depth, np.full((H, W), -0.5))
    assert f"{depth}: value -0.5 ({H * W} pixels are negative)" in loading(dataset, "train", 0, "disparity")


def test_other_folders_of_npy_are_not_taken_for_cityscapes(root: Path) -> None:
    write_npy(root, 7)
    shutil.rmtree(root / "val/depth")
    assert "lacks val/depth/" in refused(root)
    save(root / "val/depth/0.npy", npy_arrays(6)["depth"])
    save(root / "train/image/0.npy", np.zeros((H, H, 3)))
    assert "images of Cityscapes are twice as wide as high" in refused(root)
    assert "NYUD-v2 of MTAN" in refused(root)
    (root / "train/image/0.npy").write_bytes(b"")
    assert "cannot read the array" in refused(root)


@pytest.mark.parametrize("objects", [False, True])
def test_the_index(root: Path, objects: bool) -> None:
    write_index(root, objects=objects)
    before = state(root)
    dataset = opened(root)
    assert dataset.ids("train") == ("train/image/0", "train/image/2", "train/image/10")
    assert dataset.ids("val") == ("val/image/0",)
    assert "val is what the index calls test" in dataset.layout.remarks
    assert [(t.name, len(t.classes)) for t in dataset.tasks][::2] == [("semseg", 19), ("semseg_7", 7)]
    sample = dataset.load("val", 0, size=dataset.size, tasks=["semseg", "disparity", "semseg_2"])
    assert sample.labels["semseg"][0, :4].tolist() == [255, 1, 18, 0]
    assert sample.labels["semseg_2"][0, :4].tolist() == [255, 1, 1, 0]
    assert float(sample.labels["disparity"][0, 2]) == pytest.approx(0.49)
    assert state(root) == before
    (root / "val/depth/0.npy").unlink()
    assert dataset.missing() == [root / "val/depth/0.npy"]


def test_an_index_without_train_has_its_two_parts(root: Path) -> None:
    write_index(root)
    content = json.loads((root / "cityscape.json").read_text())
    del content["train"]
    (root / "cityscape.json").write_text(json.dumps(content))
    assert opened(root).ids("train") == ("train/image/0", "train/image/2", "train/image/10")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "it must be JSON"),
        (
            '{"train": [["../a.npy", "b.npy", "c.npy", "d.npy", "e.npy"]], "test": [1]}',
            "the path '../a.npy' leads out of the data set's folder",
        ),
        (
            json.dumps({"train": [[f"{c}.npy" for c in row] for row in ("abcde", "afcde")], "test": [1]}),
            "'a' stands 2 times",
        ),
        ("[]", "no list of rows for the split 'train' (its keys: none)"),
        (
            '{"train": [["a.npy", "b.npy"]], "test": [["a.npy", "b.npy"]]}',
            "row 1 of 'train', ['a.npy', 'b.npy'], does not name one file each for image, depth",
        ),
        ('{"train": [{"img": "a.npy", "depth": "b.npy"}], "test": [1]}', "does not name one file each"),
    ],
)
def test_a_broken_index_is_refused(root: Path, text: str, told: str) -> None:
    write_index(root)
    (root / "cityscape.json").write_text(text)
    assert told in refused(root)

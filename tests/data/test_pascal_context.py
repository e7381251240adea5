"""PASCAL-Context as it is downloaded: every code by hand or by another library, and nothing written."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bmtas.data.check import check
from bmtas.data.downloads.detect import open_download
from bmtas.data.downloads.pascal_context import detect
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError
from bmtas.tasks import TASK_SETS
from tests.data.mirror import mirrored
from tests.data.trees_pascal import (
    IDS,
    TRAIN,
    VAL,
    H,
    W,
    anno,
    block,
    load,
    opened,
    pascal,
    pixels,
    save_mat,
    snapshot,
    thing,
)

Array = npt.NDArray[Any]
NAMES = [task.name for task in TASK_SETS["pascal-context"]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return pascal(tmp_path / "PASCAL_MT")


def test_it_is_the_data_set_of_the_paper(tree: Path) -> None:
    before = snapshot(tree)
    dataset = opened(tree)
    assert (dataset.name, dataset.tasks, dataset.default_tasks) == ("pascal-context", TASK_SETS["pascal-context"], None)
    assert (dataset.size, dataset.layout.pad) == ((512, 512), True)
    assert dataset.splits == ("train", "val")
    assert (dataset.ids("train"), dataset.ids("val")) == (TRAIN, VAL)
    assert dataset.layout.expected == {"train": 4998, "val": 5105}
    assert "PASCAL_MT" in dataset.layout.variant
    assert dataset.missing() == []
    sample = dataset.load("val", 1, size=(512, 512), tasks=NAMES)
    assert sample.id == VAL[1]
    assert set(sample.labels) == {"semseg", "saliency", "normals", "edge"}  # nobody is in the picture
    image = pixels(tree / f"JPEGImages/{VAL[1]}.jpg")
    assert np.array_equal(sample.image[:H, :W], image)
    assert (sample.image[H:] == 127).all()
    assert (sample.image[:, W:] == 127).all()
    for name, fill in (("semseg", 255), ("saliency", 255), ("edge", 255), ("normals", 0)):
        assert (sample.labels[name][H:] == fill).all()
        assert (sample.labels[name][:, W:] == fill).all()
    assert list(check(dataset)) == []
    assert snapshot(tree) == before  # no ImageSets/Parts, nothing else


def test_it_is_found_from_above_and_from_inside(tree: Path) -> None:
    (tree.parent / "__MACOSX").mkdir()
    for place in (tree.parent, tree / "JPEGImages", tree / "ImageSets", tree / "pascal-context"):
        layout = detect(place)
        assert layout is not None
        assert layout.root == tree
    assert open_dataset(str(tree.parent)).name == "pascal-context"
    (tree.parent / "another").mkdir()
    assert detect(tree.parent) is None  # two folders: none is guessed
    assert detect(tree.parent / "another") is None


def test_copies_are_equal_and_changes_show(tree: Path, tmp_path: Path) -> None:
    first = opened(tree)
    shutil.copytree(tree, tmp_path / "elsewhere/PASCALContext")
    copy = opened(tmp_path / "elsewhere")
    assert copy.fingerprint() == first.fingerprint() == pickle.loads(pickle.dumps(first)).fingerprint()
    (copy.layout.root / "db_info/nyu_classes.json").write_text(json.dumps(["bed"]))
    assert opened(tmp_path / "elsewhere").fingerprint() != first.fingerprint()


def test_missing_files_are_listed(tree: Path) -> None:
    gone = [
        tree / f"JPEGImages/{TRAIN[0]}.jpg",
        tree / f"human_parts/{TRAIN[1]}.mat",
        tree / f"semseg/pascal-context/{VAL[1]}.png",
        tree / f"pascal-context/trainval/{VAL[0]}.mat",
    ]
    for path in gone:
        path.unlink()
    (tree / f"semseg/VOC12/{VAL[0]}.png").unlink()  # pascal-context stands in for it
    assert set(opened(tree).missing()) == set(gone)
    with pytest.raises(UsageError, match=f"cannot read the .mat file .*{TRAIN[1]}.mat"):
        load(tree, "parts", index=1)


def test_a_lost_file_is_not_replaced_by_that_of_the_other_folder(tree: Path) -> None:
    dataset = opened(tree)
    path = tree / f"semseg/VOC12/{TRAIN[0]}.png"
    path.unlink()
    with pytest.raises(UsageError, match=rf"cannot read the image {path}"):
        dataset.load("train", 0, size=(512, 512), tasks=["semseg"])
    assert dataset.missing() == [path]
    assert set(opened(tree).load("train", 0, size=(512, 512), tasks=["semseg"]).labels) == {"semseg"}


def test_every_image_may_have_labels(tree: Path) -> None:
    for name in NAMES:
        assert opened(tree).labelled("val", [name]) == [0, 1]


@pytest.mark.parametrize(
    "folder", ["normals_distill", "semseg/VOC12", "human_parts", "JPEGImages", "ImageSets/Context"]
)
def test_half_an_archive_is_refused(tree: Path, folder: str) -> None:
    shutil.rmtree(tree / folder)
    with pytest.raises(UsageError, match=rf"looks like PASCAL-Context .*lacks {folder}/; .*unpacked by half"):
        detect(tree)


def test_other_folders_are_none(tmp_path: Path) -> None:
    for name in ("JPEGImages", "ImageSets/Segmentation", "SegmentationClass"):  # PASCAL VOC itself
        (tmp_path / name).mkdir(parents=True)
    assert detect(tmp_path) is None
    (tmp_path / "PASCAL_MT.tgz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"PASCAL_MT\.tgz is an archive.*unpack it"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{TRAIN[0]}\n{TRAIN[0]}\n", "stands 2 times"),
        (f"{TRAIN[0]} 1\n", "is not one id"),
        ("", "no id in its split 'train'"),
        (f"{VAL[0]}\n", "is in the splits 'train' and 'val'"),
    ],
)
def test_lists_of_ids_are_checked(tree: Path, text: str, message: str) -> None:
    (tree / "ImageSets/Context/train.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_download(tree)
    (tree / "ImageSets/Context/train.txt").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*train\.txt"):
        open_download(tree)


def test_mirroring_twice_changes_nothing_and_once_turns_x(tree: Path) -> None:
    mask = block(slice(2, 5), slice(1, 4))
    save_mat(tree / f"human_parts/{TRAIN[0]}.mat", anno=anno([thing(15, mask, [("head", mask)])]))
    dataset = opened(tree)
    sample = dataset.load("train", 0, size=(512, 512), tasks=NAMES)
    once = mirrored(sample, dataset.tasks)
    twice = mirrored(once, dataset.tasks)
    assert list(sample.labels) == list(once.labels) == NAMES
    assert np.array_equal(once.image[:, ::-1], sample.image)
    for name, label in sample.labels.items():
        assert np.array_equal(twice.labels[name], label)
        sign = np.array([-1, 1, 1]) if name == "normals" else 1
        assert np.array_equal(np.asarray(once.labels[name])[:, ::-1], np.asarray(label) * sign)


def test_half_the_size_is_half_of_everything(tree: Path) -> None:
    sample = opened(tree).load("train", 0, size=(256, 256), tasks=["semseg"])
    assert sample.image.shape == (256, 256, 3)
    full = load(tree, "semseg")
    assert np.array_equal(sample.labels["semseg"][: H // 2, : W // 2], full[1::2, 1::2])
    assert (sample.labels["semseg"][H // 2 :] == 255).all()
    assert len(IDS) == 4

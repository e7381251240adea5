"""NYUD-v2 in the five forms that circulate: one content, written in each, is read the same from all."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmtas.data.check import check
from bmtas.data.downloads.nyud import detect
from bmtas.data.folder import open_folder
from bmtas.errors import UsageError
from bmtas.tasks import TASK_SETS
from tests.data.mirror import mirrored
from tests.data.trees_nyud import (
    BUILDERS,
    HAS,
    TRAIN,
    VAL,
    Content,
    H,
    W,
    adashare,
    astmt,
    mtl_pytorch,
    small,
)
from tests.data.trees_pascal import opened, save, snapshot

Array = npt.NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")

TASKS = {task.name: task for task in TASK_SETS["nyud-v2"]}
IDS = {
    "ASTMT": (TRAIN, VAL),
    "MTL-PyTorch": (TRAIN, VAL),
    "AdaShare": (tuple(f"image/{i}" for i in TRAIN), tuple(f"image/{i}" for i in VAL)),
    "MTAN": (tuple(f"train/{n}" for n in range(12)), ("val/0", "val/1")),
    "NDDR-CNN": (tuple(f"image/training/{i}" for i in TRAIN), tuple(f"image/testing/{i}" for i in VAL)),
}
variants = pytest.mark.parametrize("variant", list(BUILDERS))


def angles(a: Array, b: Array) -> Array:
    """Return the angle in degrees between vectors that are not 0."""
    cosine = (a.astype(np.float64) * b).sum(axis=-1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@variants
def test_what_was_written_is_read(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path / "data")
    contents = small(13 if variant == "MTAN" else 40)
    lossy = 1 if variant in ("ASTMT", "MTL-PyTorch") else 0  # images are JPEG
    before = snapshot(root)
    dataset = opened(root)
    assert variant in dataset.layout.variant
    assert [task.name for task in dataset.tasks] == HAS[variant]
    assert dataset.size == (H, W)
    assert dataset.missing() == []
    assert dataset.layout.expected == {"train": 795, "val": 654}
    assert (dataset.ids("train"), dataset.ids("val")) == IDS[variant]
    assert any("425 x 560" in text for text in dataset.layout.remarks)
    if variant != "MTAN":
        assert dataset.name == "nyud-v2"
        assert all(task == TASKS[task.name] for task in dataset.tasks)
    for split, ids in (("train", TRAIN), ("val", VAL)):
        for index, i in enumerate(ids):
            sample = dataset.load(split, index, size=(H, W), tasks=HAS[variant])
            expected = contents[i]
            assert list(sample.labels) == HAS[variant]
            assert np.abs(sample.image.astype(int) - expected.image).max() <= lossy
            for name, label in sample.labels.items():
                same(variant, name, np.asarray(label), expected)
    assert list(check(dataset)) == []
    assert snapshot(root) == before
    assert pickle.loads(pickle.dumps(dataset)).fingerprint() == dataset.fingerprint()


def same(variant: str, name: str, label: Array, expected: Content) -> None:
    """Assert that a label is that of the content, or as near to it as 8 bits and JPEG are."""
    wanted = getattr(expected, name)
    assert (label.dtype, label.shape) == (wanted.dtype, wanted.shape)
    if name != "normals" or variant in ("MTL-PyTorch", "MTAN"):
        np.testing.assert_allclose(label, wanted, atol=1e-6 if name == "normals" else 0)
        return
    valid = (wanted != 0).any(axis=2)
    assert np.array_equal((label != 0).any(axis=2), valid)
    np.testing.assert_allclose(np.linalg.norm(label[valid], axis=1), 1, atol=1e-6)
    # Half a level in each of three channels is 0.4 degrees; JPEG adds what its colour conversion rounds.
    assert angles(label[valid], wanted[valid]).max() < (1.2 if variant == "ASTMT" else 0.4)


def test_the_13_classes_are_another_task(tmp_path: Path) -> None:
    dataset = opened(BUILDERS["MTAN"](tmp_path))
    assert dataset.name == "nyud-v2-13"
    names = "bed books ceiling chair floor furniture objects picture sofa table tv wall window"
    assert dataset.tasks[0].classes == tuple(names.split())
    assert dataset.tasks[1:] == (TASKS["depth"], TASKS["normals"])
    assert any("do not compare" in text for text in dataset.layout.remarks)


@variants
def test_it_is_found_from_above_and_from_inside(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path / "above" / "NYUD")
    inside = {"ASTMT": "edge", "MTL-PyTorch": "gt_sets", "AdaShare": "depth", "MTAN": "val", "NDDR-CNN": "list"}
    for place in (root, root.parent, root / inside[variant]):
        layout = detect(place)
        assert layout is not None
        assert layout.root == root
    (root.parent / "other").mkdir()
    assert detect(root.parent) is None


@variants
def test_missing_files_are_listed(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path)
    gone = {
        "ASTMT": [f"images/{TRAIN[0]}.jpg", f"segmentation/{VAL[0]}.mat", f"edge/{TRAIN[1]}.png"],
        "MTL-PyTorch": [f"images/{TRAIN[0]}.jpg", f"normals/{VAL[0]}.npy", f"depth/{TRAIN[1]}.npy"],
        "AdaShare": [f"image/{TRAIN[0]}.png", f"depth/{VAL[0]}.npy", f"normal/{VAL[1]}.png"],
        "MTAN": ["train/label/3.npy", "val/normal/0.npy"],
        "NDDR-CNN": [f"image/training/{TRAIN[0]}.png", f"normal_mask/testing/{VAL[1]}.png"],
    }[variant]
    for name in gone:
        (root / name).unlink()
    dataset = opened(root)
    assert set(dataset.missing()) == {root / name for name in gone}
    assert dataset.size == (H, W)  # of the first image that is there
    assert list(check(dataset)) == []  # what is not there is told once


@variants
def test_without_any_image_it_cannot_be_opened(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path)
    for path in [*root.rglob("*image*/*.*"), *root.rglob("image/*/*.*")]:
        path.unlink()
    with pytest.raises(UsageError, match=r"none of the images in the lists is there|holds no \.npy file"):
        detect(root)


@pytest.mark.parametrize("folder", ["images", "gt_sets", "segmentation", "normals", "depth", "edge"])
@pytest.mark.parametrize("variant", ["ASTMT", "MTL-PyTorch"])
def test_half_an_archive_is_refused(tmp_path: Path, variant: str, folder: str) -> None:
    root = BUILDERS[variant](tmp_path)
    shutil.rmtree(root / folder)
    with pytest.raises(UsageError, match=rf"looks like NYUD-v2 with four tasks .*lacks {folder}/; .*unpacked by half"):
        detect(root)


def test_mixed_variants_are_refused(tmp_path: Path) -> None:
    root = BUILDERS["ASTMT"](tmp_path / "1")
    save(root / f"segmentation/{TRAIN[0]}.png", np.zeros((H, W), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"segmentation/\*\.mat and segmentation/\*\.png, .*one variant, whole"):
        detect(root)
    root = BUILDERS["MTL-PyTorch"](tmp_path / "2")
    shutil.rmtree(root / "depth")
    (root / "depth").mkdir()
    with pytest.raises(
        UsageError, match=r"no labels in depth/, .*; NYUD-v2 with four tasks has .*\(ASTMT\); or .*ATRC"
    ):
        detect(root)
    shutil.rmtree(root / "depth")
    shutil.copytree(tmp_path / "1/depth", root / "depth")
    with pytest.raises(UsageError, match=r"depth/\*\.mat, normals/\*\.npy"):
        detect(root)
    root = BUILDERS["ASTMT"](tmp_path / "3")
    adashare(root, small())
    with pytest.raises(
        UsageError, match=r"holds 2 variants of NYUD-v2: .*ASTMT.*nyu_v2_3task\.json.*folder of its own"
    ):
        detect(root)


def test_half_of_the_other_variants_is_refused(tmp_path: Path) -> None:
    root = BUILDERS["MTAN"](tmp_path / "1")
    shutil.rmtree(root / "val")
    with pytest.raises(UsageError, match=r"13 classes \(MTAN\), but it lacks val/image/, val/label/"):
        detect(root)
    root = BUILDERS["NDDR-CNN"](tmp_path / "2")
    (root / "list/testing_normal_mask.txt").unlink()
    with pytest.raises(UsageError, match=r"lacks testing_normal_mask\.txt; NYUD-v2 of NDDR-CNN"):
        detect(root)
    text = (root / "list/training_seg.txt").read_text()
    for wrong, message in [
        (text.splitlines()[0], r"differ in 1 images, image/training/0002\.png for one"),
        (text + text, "stands twice"),
        ("/image/1.png\n", r"the line '/image/1\.png' is not '/image /label'"),
        ("/../1.png /2.png\n", "leads out of the data set's folder"),
    ]:
        (root / "list/testing_normal_mask.txt").write_text((root / "list/testing_seg.txt").read_text())
        (root / "list/training_seg.txt").write_text(wrong)
        with pytest.raises(UsageError, match=message):
            detect(root)


def test_other_folders_are_none(tmp_path: Path) -> None:
    assert detect(tmp_path) is None
    for name in ("images", "depth", "semseg", "train/image", "train/label", "train/depth"):
        (tmp_path / name).mkdir(parents=True)
    assert detect(tmp_path) is None
    (tmp_path / "NYUD_MT.tgz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"NYUD_MT\.tgz is an archive"):
        detect(tmp_path)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    with pytest.raises(UsageError, match="as its authors publish it, without the splits"):
        detect(tmp_path)


@variants
def test_mirroring_twice_changes_nothing_and_once_turns_x(tmp_path: Path, variant: str) -> None:
    dataset = opened(BUILDERS[variant](tmp_path))
    sample = dataset.load("val", 0, size=(H, W), tasks=HAS[variant])
    once = mirrored(sample, dataset.tasks)
    twice = mirrored(once, dataset.tasks)
    assert list(once.labels) == HAS[variant]
    for name, label in sample.labels.items():
        np.testing.assert_array_equal(twice.labels[name], label)
        sign = np.array([-1, 1, 1]) if name == "normals" else 1
        np.testing.assert_array_equal(np.asarray(once.labels[name])[:, ::-1], np.asarray(label) * sign)


@needs_shared
@pytest.mark.parametrize("variant", ["ASTMT", "MTL-PyTorch", "AdaShare"])
def test_real_images_are_read_as_from_their_own_folder(tmp_path: Path, variant: str) -> None:
    reference = open_folder(ROOT / "examples/nyu_fixture.yaml")
    folder = SHARED / "nyu_fixture"
    contents, coded = {}, {}
    for split in ("train", "val"):
        for index, i in enumerate(reference.ids(split)):
            sample = reference.load(split, index, size=reference.size, tasks=list(TASKS))
            contents[i] = Content(sample.image, **{name: np.asarray(label) for name, label in sample.labels.items()})
            with Image.open(folder / f"normals/{i}.png") as picture:
                coded[i] = np.array(picture)  # as AdaShare ships them
    train, val = reference.ids("train"), reference.ids("val")
    if variant == "AdaShare":
        root = adashare(tmp_path, contents, train, val, coded=coded)
    else:
        root = (astmt if variant == "ASTMT" else mtl_pytorch)(tmp_path, contents, train, val)
    dataset = opened(root)
    assert (dataset.size, dataset.missing()) == ((480, 640), [])
    assert [task.to_json() for task in dataset.tasks] == [TASKS[name].to_json() for name in HAS[variant]]
    for split, ids in (("train", train), ("val", val)):
        for index, i in enumerate(ids):
            sample = dataset.load(split, index, size=dataset.size, tasks=HAS[variant])
            wanted = contents[i]
            far = np.abs(sample.image.astype(int) - wanted.image).mean()
            assert far == 0 if variant == "AdaShare" else far < 4  # JPEG
            assert np.array_equal(sample.labels["semseg"], wanted.semseg)
            assert np.array_equal(sample.labels["depth"], wanted.depth)
            if "edge" in HAS[variant]:
                # An image from 0 to 255 cannot say that a pixel is ignored; an array can.
                edge = np.where(wanted.edge == 255, 0, wanted.edge) if variant == "ASTMT" else wanted.edge
                assert np.array_equal(sample.labels["edge"], edge)
            real_normals_agree(variant, np.asarray(sample.labels["normals"]), wanted.normals)


def real_normals_agree(variant: str, label: Array, wanted: Array) -> None:
    if variant != "ASTMT":
        np.testing.assert_allclose(label, wanted, atol=1e-6)
        return
    both = (label != 0).any(axis=2) & (wanted != 0).any(axis=2)
    # JPEG blurs the borders of where there are normals, and turns some vectors.
    assert (both == (wanted != 0).any(axis=2)).mean() > 0.98
    assert ((label != 0).any(axis=2) == both).mean() > 0.9
    assert np.median(angles(label[both], wanted[both])) < 1

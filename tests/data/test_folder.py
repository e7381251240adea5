"""Folders as data sets: what is there is found, what is broken is named, and real sets load."""

from __future__ import annotations

import csv
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmtas.data.check import check
from bmtas.data.folder import FolderDataset, open_folder
from bmtas.data.protocol import Dataset
from bmtas.data.source import open_dataset
from bmtas.data.stored import read_image
from bmtas.errors import UsageError
from bmtas.tasks import TASK_SETS

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
EXAMPLES = ROOT / "examples"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")

H, W = 4, 6
SPLITS = "splits: {train: [a], val: [b]}\n"


def grey(value: int = 0) -> npt.NDArray[np.uint8]:
    return np.full((H, W), value, dtype=np.uint8)


def save(path: Path, array: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)


def manifest(folder: Path, tasks: str, splits: str = SPLITS, head: str = "") -> Path:
    path = folder / "own.yaml"
    path.write_text(f"{head}\nimages: {{folder: images}}\n{splits}tasks:\n{tasks}", encoding="utf-8")
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images a and b, 4 high and 6 wide; masks `fg` with one foreground pixel."""
    rng = np.random.default_rng(0)
    for name in "ab":
        save(tmp_path / f"images/{name}.png", rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
        mask = grey()
        mask[1, 2] = 1
        save(tmp_path / f"fg/{name}.png", mask)
    return tmp_path


FG = "  fg: {kind: binary, folder: fg}\n"


def test_a_folder_is_a_dataset(tree: Path) -> None:
    dataset: Dataset = open_folder(manifest(tree, FG))
    assert (dataset.name, dataset.size, dataset.ids("train"), dataset.ids("val")) == (
        "own",
        (H, W),
        ("a",),
        ("b",),
    )
    sample = dataset.load("train", 0, size=(H, W), tasks=["fg"])
    assert sample.id == "a"
    assert np.array_equal(sample.image, np.asarray(Image.open(tree / "images/a.png")))
    expected = grey()
    expected[1, 2] = 1
    assert np.array_equal(sample.labels["fg"], expected)
    assert sample.image.flags.writeable  # torch warns about arrays that are not
    assert dict(dataset.load("train", 0, size=(H, W), tasks=[]).labels) == {}
    with pytest.raises(UsageError, match="unknown split 'trian'; did you mean 'train'"):
        dataset.ids("trian")
    with pytest.raises(UsageError, match="unknown task 'gf'"):
        dataset.load("train", 0, size=(H, W), tasks=["gf"])
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint() == dataset.fingerprint()
    assert open_dataset(str(shutil.move(tree / "own.yaml", tree / "manifest.yaml"))).ids("val") == ("b",)
    assert open_dataset(str(tree)).name == tree.name


def test_images_without_a_label_of_the_tasks_are_known(tree: Path) -> None:
    save(tree / "far/b.png", np.full((H, W), 2000, dtype=np.uint16))
    splits = "splits: {train: [b, a], val: [c]}\n"
    save(tree / "images/c.png", np.zeros((H, W, 3), dtype=np.uint8))
    (tree / "kinds.csv").write_text("id,label\na,x\nc,x\n")
    tasks = "  far: {kind: depth, folder: far, scale: 0.001}\n  kind: {kind: classification, file: kinds.csv, classes: [x, y]}\n"
    dataset = open_folder(manifest(tree, tasks, splits))
    assert dataset.labelled("train", ["far"]) == [0]
    assert dataset.labelled("train", ["kind"]) == [1]
    assert dataset.labelled("train", ["kind", "far"]) == [0, 1]
    assert dataset.labelled("val", ["far"]) == []
    with pytest.raises(UsageError, match="unknown task 'fra'"):
        dataset.labelled("val", ["fra"])


def test_a_camera_that_lay_on_its_side(tree: Path) -> None:
    """Orientation 6: the stored rows are columns from right to left."""
    stored = np.zeros((W, H, 3), dtype=np.uint8)
    stored[0, 0] = 255  # top left in the file is top right as shown
    for name in "ab":
        exif = Image.Exif()
        exif[0x0112] = 6
        save(tree / f"images/{name}.png", stored, exif=exif)
    dataset = open_folder(manifest(tree, FG))
    assert dataset.size == (H, W) != stored.shape[:2]
    image = dataset.load("train", 0, size=dataset.size, tasks=["fg"]).image
    assert image[0, W - 1].tolist() == [255] * 3
    assert image.sum() == 3 * 255


def test_another_size_is_smooth_for_images_and_nearest_for_labels(tree: Path) -> None:
    ids = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    save(tree / "t/a.png", ids)
    dataset = open_folder(manifest(tree, "  t: {kind: segmentation, folder: t, classes: 24}\n" + FG))
    half = dataset.load("train", 0, size=(2, 3), tasks=["t"])
    assert half.labels["t"].tolist() == [
        [7, 9, 11],
        [19, 21, 23],
    ]  # the centres of 2x2 lie at odd rows and columns
    assert half.image.shape == (2, 3, 3)
    double = dataset.load("train", 0, size=(8, 12), tasks=["t"])
    assert np.array_equal(double.labels["t"], ids.repeat(2, axis=0).repeat(2, axis=1))
    flat = np.zeros((8, 8, 3), dtype=np.uint8)
    flat[:, ::2] = 255
    save(tree / "flat.png", flat)
    inner = read_image(tree / "flat.png", (2, 2))[0]
    assert np.all((inner > 100) & (inner < 155))  # stripes of one pixel average out: antialiased


def test_classes_of_images_come_from_a_csv(tree: Path) -> None:
    path = tree / "labels.csv"
    own = manifest(tree, "  t: {kind: classification, file: labels.csv, classes: [in, out]}\n" + FG)
    path.write_text("\ufeffid,label,note\na,out,x\nb,0,y\nc,in,z\n", encoding="utf-8")
    dataset = open_folder(own)
    first = dataset.load("train", 0, size=(H, W), tasks=["t"]).labels["t"]
    assert (first.shape, str(first.dtype), int(first)) == ((), "int64", 1)
    assert int(dataset.load("val", 0, size=(H, W), tasks=["t"]).labels["t"]) == 0
    path.write_text("id,label\na,in\nb,\n")
    assert "t" not in open_folder(own).load("val", 0, size=(H, W), tasks=["t"]).labels
    for text, message in [
        ("id,label\na,outt\n", r"labels\.csv:2: unknown class 'outt' of task 't'; did you mean 'out'"),
        ("id,label\na,2\n", "unknown class '2'"),
        ("id,label\na,in\na,out\n", "labels.csv:3: image 'a' already has another label"),
        ("name,label\na,in\n", r"has the columns \['name', 'label'\]; it needs 'id' and 'label'"),
        ("id,label\nx,in\n", r"own\.yaml:5: tasks\.t\.file: labels\.csv holds no label .* no line for a"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            open_folder(own)
    path.unlink()
    with pytest.raises(UsageError, match=r"tasks\.t\.file: there is no file .*labels\.csv"):
        open_folder(own)


def opening(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_folder(path)
    return str(caught.value)


def test_missing_places_are_told_with_key_and_path(tree: Path) -> None:
    message = opening(manifest(tree, "  t: {kind: edge, folder: contour}\n"))
    assert message.startswith(f"{tree}/own.yaml:5: tasks.t.folder: there is no folder {tree.resolve()}/contour;")
    assert f"relative to 'root' ({tree.resolve()}): correct the key or create the folder" in message
    assert "splits.val: there is no file" in opening(manifest(tree, FG, "splits: {train: [a], val: val.txt}\n"))
    (tree / "empty").mkdir()
    message = opening(manifest(tree, "  t: {kind: depth, folder: empty, scale: 1}\n" + FG))
    assert "tasks.t.folder: empty holds no label for any image of the split 'train'" in message
    assert (
        "no file that ends in .png, .tif, .tiff for a; correct the place, 'prefix', 'suffix' or 'encoding'" in message
    )
    path = manifest(tree, FG)
    path.write_text(path.read_text().replace("folder: images", "folder: empty"))
    assert "images.folder: no file in" in opening(path)


def test_splits_are_checked(tree: Path) -> None:
    (tree / "val.txt").write_text("# nobody\n\n")
    assert "splits.val: the split 'val' is empty" in opening(manifest(tree, FG, "splits: {train: [a], val: val.txt}\n"))
    message = opening(manifest(tree, FG, "splits: {train: [a, c, d, e, f], val: [b]}\n"))
    assert "splits.train: 4 of 5 ids have no image in 'images': c, d, e and 1 more; an id is" in message
    assert "such as 'a': correct the ids or add the images" in message
    message = opening(manifest(tree, FG, "splits: {train: [a, b], val: [b]}\n"))
    assert "splits.val: 1 ids are in 'val' and in 'train': b; a result on images" in message
    assert "1 ids stand twice: a" in opening(manifest(tree, FG, "splits: {train: [a, a], val: [b]}\n"))
    (tree / "fg/b.png").unlink()
    assert "splits.val: 1 of 1 images have no label of any task: b; add" in opening(manifest(tree, FG))
    (tree / "val.txt").write_bytes(b"\xff\xfe\x00")
    assert "must be a text file in UTF-8" in opening(manifest(tree, FG, "splits: {train: [a], val: val.txt}\n"))


def test_lists_may_name_files_and_sub_folders(tree: Path) -> None:
    for place in ("images/oslo", "fg/oslo"):
        save(tree / place / "1_left.PNG", grey())
        save(tree / place / "._1_left.PNG", grey())  # macOS writes such companions
        save(tree / place / ".ipynb_checkpoints/1_left.png", grey())
    (tree / "train.txt").write_text("\ufeff# first\na.png\n\n  oslo/1_left  \n", encoding="utf-8")
    dataset = open_folder(manifest(tree, FG, "splits: {train: train.txt, val: [b]}\n"))
    assert dataset.ids("train") == ("a", "oslo/1_left")
    head = manifest(tree, FG.replace("fg}", "fg, suffix: _left.png}"), "splits: {train: [oslo/1], val: 0.5}\n")
    head.write_text(head.read_text().replace("images}", "images, suffix: _left.png}"))
    assert "splits.val: the split 'val' is empty" in opening(head)
    head.write_text(head.read_text().replace("val: 0.5", "val: [a]"))
    assert "no image in 'images': a; an id is the image's path below that folder without _left.png" in opening(head)


def test_a_prefix_is_no_part_of_an_id(tree: Path) -> None:
    for folder, word in (("images/oslo", "rgb_"), ("fg/oslo", "fg_")):
        for number, name in enumerate((f"{word}1.png", f"{word}2.png", "3.png", f"{word}.png")):
            save(tree / folder / name, grey(number))
    path = manifest(tree, FG.replace("fg}", "fg, prefix: fg_}"), "splits: {train: [oslo/rgb_1.png], val: [oslo/2]}\n")
    path.write_text(path.read_text().replace("images}", "images, prefix: rgb_}"))
    dataset = open_folder(path)
    assert (dataset.ids("train"), dataset.ids("val"), dataset.label_count("fg")) == (("oslo/1",), ("oslo/2",), 2)


def test_fractions_divide_without_overlap_and_always_alike(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / f"images/{i}.png", grey())
        save(tmp_path / f"fg/{i}.png", grey())
    dataset = open_folder(manifest(tmp_path, FG, "splits: {test: [3], val: 0.2}\n"))
    train, val = dataset.ids("train"), dataset.ids("val")
    assert dataset.splits == ("train", "val", "test")
    assert (len(train), len(val)) == (15, 4)
    assert {*train, *val} == {str(i) for i in range(20)} - {"3"}
    assert list(val) == sorted(val)
    again = open_folder(manifest(tmp_path, FG, "splits: {train: 0.8, val: 0.1, test: 0.1}\n"))
    assert [len(again.ids(s)) for s in again.splits] == [16, 2, 2]
    assert again.ids("val") == open_folder(tmp_path / "own.yaml").ids("val")


def test_broken_files_are_named_when_they_are_loaded(tree: Path) -> None:
    save(tree / "t/a.png", grey(3))
    save(tree / "t/b.png", np.zeros((W, H), dtype=np.uint8))
    dataset = open_folder(manifest(tree, "  t: {kind: segmentation, folder: t, classes: [x, y]}\n" + FG))
    problems = list(check(dataset))
    assert len(problems) == 2
    assert f"{tree}/t/a.png: value 3 (24 pixels" in problems[0]
    assert "is no class of task 't', whose ids are 0 to 1; add the class to 'classes', list the value" in problems[0]
    assert f"t/b.png is 6 high and 4 wide but its image {tree.resolve()}/images/b.png is 4 high and 6" in problems[1]
    assert "resize the label (nearest neighbour) or replace the wrong file" in problems[1]
    (tree / "images/a.png").write_bytes((tree / "images/a.png").read_bytes()[:60])
    (tree / "images/b.png").write_text("no picture")
    first, second = check(dataset)
    assert "cannot read the image" in first
    assert "images/a.png" in first
    assert "images/b.png is not an image that Pillow can read; replace the file or drop its id" in second
    assert len(list(check(dataset, limit=0))) == 0
    assert "images/b.png is not an image" in opening(manifest(tree, FG, "splits: {train: [b], val: [a]}\n"))


def test_what_is_no_array_is_refused(tree: Path) -> None:
    (tree / "t").mkdir()
    np.save(tree / "t/a.npy", np.array([{}], dtype=object), allow_pickle=True)
    dataset = open_folder(manifest(tree, "  t: {kind: depth, folder: t, encoding: npy}\n" + FG))
    assert "cannot read the array" in next(check(dataset))  # pickles run code: they are never loaded
    (tree / "t/a.npy").write_bytes(b"")
    assert "write it with numpy.save" in next(check(dataset))


def test_images_of_different_sizes_need_a_size(tree: Path) -> None:
    save(tree / "images/b.png", np.zeros((8, 12, 3), dtype=np.uint8))
    save(tree / "fg/b.png", np.zeros((8, 12), dtype=np.uint8))
    message = next(check(open_folder(manifest(tree, FG))))
    assert "images/b.png is 8 high and 12 wide but" in message
    assert f"add 'size: [height, width]' to {tree}/own.yaml" in message
    assert list(check(open_folder(manifest(tree, FG, head="size: [4, 6]")))) == []


def test_the_fingerprint_follows_the_definition_not_the_place(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = open_folder(manifest(tree, FG)).fingerprint()
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, copy)
    assert open_folder(copy / "own.yaml").fingerprint() == first
    assert open_folder(manifest(copy, FG.replace("fg}", "fg, ignore: 0}"))).fingerprint() != first
    assert open_folder(manifest(copy, FG, "splits: {train: [b], val: [a]}\n")).fingerprint() != first
    assert open_folder(manifest(copy, FG, head="size: [8, 12]")).fingerprint() != first
    save(copy / "fg/a.png", np.random.default_rng(0).integers(0, 2, (H, W), dtype=np.uint8))
    assert open_folder(manifest(copy, FG)).fingerprint() != first


def shared(name: str) -> FolderDataset:
    return open_folder(EXAMPLES / f"{name}.yaml")


def test_the_template_loads_over_the_tree_that_it_describes(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "own-data.yaml", tmp_path)
    data = tmp_path / "own-data"
    for stem in ("kitchen1", "oslo/street7"):
        save(data / f"images/{stem}.png", np.zeros((48, 64, 3), dtype=np.uint8))
        for folder in ("semseg", "person", "contour", "roughness"):
            save(data / folder / f"{stem}.png", np.ones((48, 64), dtype=np.uint8))
        save(data / f"normals/{stem}.png", np.full((48, 64, 3), (127, 255, 127), dtype=np.uint8))
        save(data / f"depth/{stem}.png", np.full((48, 64), 2500, dtype=np.uint16))
    (data / "scene.csv").write_text("id,label\nkitchen1,indoors\noslo/street7,outdoors\n")
    (data / "train.txt").write_text("kitchen1\n")
    (data / "val.txt").write_text("oslo/street7\n")
    dataset = open_folder(tmp_path / "own-data.yaml")
    assert list(check(dataset)) == []
    assert (dataset.name, dataset.size) == ("own-data", (96, 128))
    assert dataset.tasks[0].classes == ("floor", "wall", "door, open", "null")
    assert len({t.kind for t in dataset.tasks}) == 7
    labels = dataset.load("val", 0, size=dataset.size, tasks=[t.name for t in dataset.tasks]).labels
    assert {name: label.shape for name, label in labels.items()} == {
        **dict.fromkeys(("semseg", "person", "contour", "depth", "roughness"), (96, 128)),
        "normals": (96, 128, 3),
        "scene": (),
    }
    assert labels["depth"][0, 0] == 2.5
    assert labels["normals"][0, 0, 1] == pytest.approx(-1, abs=1e-4)  # up in the file, y points down here
    assert labels["roughness"][0, 0] == pytest.approx(1 / 255)
    assert labels["scene"] == 1


@needs_shared
def test_ccp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # paths in a manifest do not depend on where one stands
    dataset = shared("ccp")
    assert dataset.size == (384, 256)
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == (805, 199)  # its README
    with (SHARED / "ccp/classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    semseg, parts, _, _ = dataset.tasks
    assert list(semseg.classes) == [row["name"] for row in rows]
    assert {(parts.classes[int(row["region_id"])], row["region"]) for row in rows} == {(p, p) for p in parts.classes}
    region = np.array([*(int(row["region_id"]) for row in rows), *[255] * 197])[:256]
    for index in (0, 9, 100):
        sample = dataset.load("val", index, size=dataset.size, tasks=["semseg", "parts", "figure", "edge"])
        with Image.open(SHARED / f"ccp/semseg/{sample.id}.png") as picture:
            ids = np.asarray(picture)
        assert np.array_equal(sample.labels["semseg"], ids)
        assert np.array_equal(sample.labels["parts"], region[ids])
        assert np.array_equal(sample.labels["figure"], np.where(ids == 255, 255, ids > 0))
        assert 0.01 < (sample.labels["edge"] == 1).mean() < 0.1  # 3.4 % over all
    assert list(check(dataset, limit=8)) == []
    assert dataset.load("train", 0, size=(192, 128), tasks=["semseg"]).labels["semseg"].shape == (192, 128)


@needs_shared
def test_pothole() -> None:
    dataset = shared("pothole")
    assert (dataset.size, len(dataset.ids("train")), len(dataset.ids("val"))) == ((256, 432), 47, 15)
    assert list(check(dataset, limit=4)) == []
    disparity = dataset.load("train", 3, size=dataset.size, tasks=["disparity"]).labels["disparity"]
    valid = ~np.isnan(disparity)
    assert 0.98 < valid.mean() <= 1
    assert np.median(disparity[valid]) == 0  # what median and MAD mean
    assert np.median(np.abs(disparity[valid])) == pytest.approx(1, abs=1e-6)


@needs_shared
def test_nyu_fixture() -> None:
    dataset = shared("nyu_fixture")
    ids = [*dataset.ids("train"), *dataset.ids("val")]
    assert ids == (SHARED / "nyu_fixture/all.txt").read_text().split()
    assert [t.name for t in dataset.tasks] == [t.name for t in TASK_SETS["nyud-v2"]]
    assert dataset.tasks[0] == TASK_SETS["nyud-v2"][0]
    for index in range(3):
        labels = dataset.load("train", index, size=dataset.size, tasks=["depth", "normals", "edge"]).labels
        depth, normals = labels["depth"].astype(np.float64), labels["normals"].astype(np.float64)
        assert not np.isnan(depth).any()  # in-painted, says its README
        assert 0.5 < depth.min() < depth.max() < 10
        length = np.linalg.norm(normals, axis=2)
        valid = length > 0
        with Image.open(SHARED / f"nyu_fixture/normals/{ids[index]}.png") as picture:
            colours = np.asarray(picture)
        white_or_black = ((colours == 255) | (colours == 0)).all(axis=2) & (np.ptp(colours, axis=2) == 0)
        assert 0.22 < white_or_black.mean() < 0.394  # 22-39 % in its README
        # A further 1 % is grey 127, a vector of length 0, which is no normal either.
        assert np.array_equal(valid, ~(white_or_black | (colours == 127).all(axis=2)))
        np.testing.assert_allclose(length[valid], 1, atol=1e-5)
        assert (normals[valid][:, 2] < 0).mean() > 0.95  # surfaces that are seen face the camera
        assert median_gap_degrees(depth, normals, valid) < 20  # 10-17 in its README


def median_gap_degrees(depth: npt.NDArray[Any], normals: npt.NDArray[Any], valid: npt.NDArray[Any]) -> float:
    """Angle between the normals and those of the depth, with the camera of NYUv2 (constants: its README)."""
    fx, fy, cx, cy = 518.86, 519.47, 325.58, 253.74
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    points = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], axis=-1)
    step = 8  # over several pixels, for depth is quantised
    right = points[step:-step, 2 * step :] - points[step:-step, : -2 * step]
    down = points[2 * step :, step:-step] - points[: -2 * step, step:-step]
    computed = np.cross(down, right)
    computed /= np.maximum(np.linalg.norm(computed, axis=-1, keepdims=True), 1e-12)
    inner = (slice(step, -step), slice(step, -step))
    cosine = (computed * normals[inner]).sum(axis=-1)[valid[inner]]
    return float(np.degrees(np.median(np.arccos(np.clip(cosine, -1, 1)))))

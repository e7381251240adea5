"""What `inspect` says of a data set, what a search asks of one before it begins, and the picture of a sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bmtas.colours import colour
from bmtas.data.check import check, check_labels
from bmtas.data.chosen import spread
from bmtas.data.downloads.base import Download
from bmtas.data.planted import Planted
from bmtas.data.protocol import Dataset, Sample
from bmtas.data.report import DataReport, holds, inspect, pick_sample, place_of
from bmtas.data.sample_picture import draw_sample
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind
from tests.data.trees_cityscapes import save, write_raw
from tests.data.trees_omniglot import write_omniglot
from tests.data.trees_pascal import pascal
from tests.data.trees_taskonomy import H, W, write_taskonomy


class Notes:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.done = 0
        self.notes: list[str] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.steps.append((name, total))

    def advance(self, **_: float) -> None:
        self.done += 1

    def state(self, **_: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def opened(path: Path) -> Download:
    dataset = open_dataset(str(path))
    assert isinstance(dataset, Download)
    return dataset


def own_data(root: Path) -> Dataset:
    """Three images of 4x6 pixels with a mask; that of `b` is missing."""
    for name in "abc":
        save(root / f"images/{name}.png", np.zeros((4, 6, 3), dtype=np.uint8))
        if name != "b":
            save(root / f"fg/{name}.png", np.ones((4, 6), dtype=np.uint8))
            save(root / f"far/{name}.png", np.full((4, 6), 2000, dtype=np.uint16))
    save(root / "far/b.png", np.full((4, 6), 2000, dtype=np.uint16))
    (root / "own.yaml").write_text(
        "images: {folder: images}\nsplits: {train: [a, b], val: [c]}\n"
        "tasks:\n  fg: {kind: binary, folder: fg}\n  far: {kind: depth, folder: far, scale: 0.001}\n",
        encoding="utf-8",
    )
    return open_dataset(str(root / "own.yaml"))


def test_a_sample_is_spread_over_the_split() -> None:
    assert spread(10, None) == range(10)
    assert spread(10, 10) == spread(10, 11) == range(10)
    assert list(spread(10, 5)) == [1, 3, 5, 7, 9]
    assert list(spread(9, 2)) == [2, 6]
    assert list(spread(5, 0)) == []
    assert all(len(set(spread(n, k))) == k for n in range(1, 30) for k in range(1, n))


def test_a_good_download(tmp_path: Path) -> None:
    root = write_taskonomy(tmp_path / "data")
    progress = Notes()
    report = inspect(opened(root), per_split=2, progress=progress)
    assert report.ok
    assert (report.name, report.root, report.size, report.read) == ("taskonomy", root, (H, W), 6)
    assert [(s.name, s.images, s.published, s.difference) for s in report.splits] == [
        ("train", 6, None, None),
        ("val", 3, None, None),
        ("test", 3, None, None),
    ]
    assert [(t.task.name, t.labels, t.images) for t in report.tasks] == [
        (name, 12, 12) for name in ("semseg", "normals", "depth", "keypoints", "edges")
    ]
    assert any("SHA-256" in remark for remark in report.remarks)
    assert (report.missing, report.problems) == ((), ())
    assert (progress.steps, progress.done) == ([("read images", 6)], 6)
    assert inspect(opened(root), per_split=None).read == 12


def test_fewer_images_than_published_are_not_well(tmp_path: Path) -> None:
    report = inspect(opened(write_raw(tmp_path / "data")))
    assert [(s.published, s.difference) for s in report.splits] == [(2975, -2972), (500, -499)]
    assert (report.missing, report.problems) == ((), ())
    assert not report.ok


def test_what_is_missing_and_what_is_wrong(tmp_path: Path) -> None:
    root = write_raw(tmp_path / "data")
    gone = root / "disparity/val/munster/munster_000000_000019_disparity.png"
    gone.unlink()
    for number in (0, 1):
        path = root / f"gtFine/train/aachen/aachen_{number:06d}_000019_gtFine_labelIds.png"
        save(path, np.full((8, 16), 40 + number, dtype=np.uint8))
    report = inspect(opened(root))
    assert report.missing == (gone,)
    assert [(t.labels, t.images) for t in report.tasks] == [(4, 4), (3, 4)]
    (wrong,) = report.problems  # what is missing is told as that, not once more as a file that cannot be read
    assert wrong.files == 2  # two files of one cause
    assert "aachen_000000_000019_gtFine_labelIds.png: value 40" in wrong.message
    data = report.to_json()
    assert data["ok"] is False
    assert data["missing"] == [str(gone)]
    assert data["problems"][0] == {"message": wrong.message, "files": 2}
    assert data["splits"]["train"] == {"images": 3, "published": 2975, "difference": -2972}


def test_json_holds_everything(tmp_path: Path) -> None:
    report = inspect(opened(write_omniglot(tmp_path / "data")))
    data = report.to_json()
    assert set(data) == {
        *("schema_version", "ok", "name", "variant", "root", "remarks", "size", "splits", "tasks", "missing", "read"),
        "problems",
    }
    assert (data["schema_version"], data["name"], data["size"]) == (1, "omniglot", [105, 105])
    task = data["tasks"][0]
    assert (task["name"], task["kind"], task["labels"], task["images"]) == (
        "Anglo-Saxon_Futhorc",
        "classification",
        40,
        180,
    )
    assert task["classes"] == ["character01", "character02"]
    assert data["remarks"] == list(report.remarks)


def test_own_and_generated_data(tmp_path: Path) -> None:
    report = inspect(own_data(tmp_path))
    assert report.ok
    assert (report.variant, report.root) == (f"own images, described by {tmp_path}/own.yaml", tmp_path.resolve())
    assert [(t.task.name, t.labels, t.images) for t in report.tasks] == [("fg", 2, 3), ("far", 3, 3)]
    report = inspect(Planted(train=3, val=2), per_split=1)
    assert report.ok
    assert (report.variant, report.root, report.read) == ("generated", None, 2)
    assert {t.labels for t in report.tasks} == {5}


def test_what_lies_in_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_taskonomy(tmp_path / "data")
    dataset = opened(root)
    assert holds(dataset, root / "x.png")
    assert holds(dataset, root / "new" / "x.png")
    assert holds(dataset, tmp_path / "data/../data/x.png")
    assert not holds(dataset, tmp_path / "x.png")
    monkeypatch.chdir(root)
    assert holds(dataset, Path("x.png"))
    assert not holds(Planted(), Path("x.png"))
    link = tmp_path / "link"
    link.symlink_to(root)
    assert holds(dataset, link / "x.png")
    assert holds(dataset, tmp_path / "x.png", str(tmp_path))  # the folder around it, which the user has named
    assert not holds(Planted(), Path("planted/x.png"), "planted")


def test_the_folders_of_own_data(tmp_path: Path) -> None:
    own_data(tmp_path / "elsewhere")
    (tmp_path / "notes").mkdir()
    text = (tmp_path / "elsewhere/own.yaml").read_text()
    (tmp_path / "notes/own.yaml").write_text(
        "root: ../elsewhere/images\n" + text.replace("folder: ", "folder: ../").replace("../images", ".")
    )
    dataset = open_dataset(str(tmp_path / "notes/own.yaml"))
    for folder in ("notes", "elsewhere/images", "elsewhere/fg", "elsewhere/far"):
        assert holds(dataset, tmp_path / folder / "x.png")
    assert not holds(dataset, tmp_path / "elsewhere/x.png")


def test_the_sample_with_the_most_labels_is_taken(tmp_path: Path) -> None:
    dataset = own_data(tmp_path)
    assert set(pick_sample(dataset).labels) == {"fg", "far"}
    assert (pick_sample(dataset, "b").id, set(pick_sample(dataset, "b").labels)) == ("b", {"far"})
    assert place_of(dataset, "c") == ("val", 0)
    with pytest.raises(UsageError, match="own has no image 'd'; ids look like 'a'"):
        pick_sample(dataset, "d")
    (tmp_path / "images/a.png").write_bytes(b"")
    assert pick_sample(dataset).id == "c"  # b has one label only
    for name in "abc":
        (tmp_path / f"images/{name}.png").write_bytes(b"")
    with pytest.raises(UsageError, match="is not an image"):
        pick_sample(dataset)


def test_a_large_image_is_drawn_smaller(tmp_path: Path) -> None:
    dataset = opened(write_raw(tmp_path / "data"))
    assert pick_sample(dataset).image.shape == (256, 512, 3)  # of 1024x2048


def test_the_picture_has_a_panel_for_each_label(tmp_path: Path) -> None:
    tasks = (
        Task(name="ids", kind=TaskKind.SEGMENTATION, classes=("x", "y")),
        Task(name="far", kind=TaskKind.DEPTH),
        Task(name="absent", kind=TaskKind.BINARY),
        Task(name="letter", kind=TaskKind.CLASSIFICATION, classes=("alpha", "beta")),
    )
    ids = np.array([[0, 1], [255, 1]], dtype=np.uint8).repeat(100, axis=0).repeat(100, axis=1)
    far = np.where(ids == 255, np.nan, 1.0 + ids).astype(np.float32)
    image = np.full((200, 200, 3), (9, 8, 7), dtype=np.uint8)
    sample = Sample("one", image, {"ids": ids, "far": far, "letter": np.array(1)})
    path = tmp_path / "new" / "look.png"
    assert draw_sample(sample, tasks, path) == 4
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", 4 * 200)
        pixels = np.asarray(picture)[-200:]  # below the titles
    corners = [pixels[y, x].tolist() for x in (250, 350, 450, 550) for y in (50, 150)]
    grey = [128] * 3
    assert corners[0] == [30] * 3  # class 0 is dark
    assert corners[1] == grey  # ignored
    assert corners[2] == corners[3] == colour(tasks[0], np.array([[1]]), (0, 1))[0, 0].tolist()
    assert [corners[4], corners[5], corners[6]] == [[0] * 3, grey, [255] * 3]  # the nearest black, the farthest white
    assert pixels[:, :200].reshape(-1, 3).tolist() == [[9, 8, 7]] * 40000


def test_a_small_image_is_enlarged(tmp_path: Path) -> None:
    dataset = opened(write_taskonomy(tmp_path / "data"))
    panels = draw_sample(pick_sample(dataset), dataset.tasks, tmp_path / "look.png")
    assert panels == 6
    with Image.open(tmp_path / "look.png") as picture:
        assert picture.width == panels * 12 * W
        assert picture.height > 12 * H


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checked"


def test_a_search_reads_a_sample_of_a_download_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmtas.data.check._SAMPLE", 2)
    root = write_taskonomy(tmp_path / "data")
    dataset = opened(root)
    progress = Notes()
    check_labels(dataset, dataset.tasks, progress)
    assert (progress.steps, progress.done) == ([("check data", 6)], 6)
    assert progress.notes == ["images: 6 train, 3 val, 3 test; all labelled"]
    assert len(list(cache.iterdir())) == 1
    again = Notes()
    check_labels(opened(root), dataset.tasks, again)
    assert (again.steps, again.notes) == ([], progress.notes)
    view = dataset.ids("train")[0].split("/")
    (root / view[0] / "normal" / f"{view[1]}_domain_normal.png").unlink()  # other data are checked again
    changed = Notes()
    check_labels(opened(root), dataset.tasks, changed)
    assert changed.done == 6
    assert changed.notes == ["images: 6 train, 3 val, 3 test; normals has labels for 11 of 12"]


def test_a_search_does_not_begin_without_its_files(tmp_path: Path, cache: Path) -> None:
    root = write_raw(tmp_path / "data")
    dataset = opened(root)
    for path in root.rglob("*_disparity.png"):
        path.rename(path.with_suffix(".bak"))
    semseg, disparity = dataset.tasks
    check_labels(dataset, [semseg], Notes())  # what the search does not use may be missing
    with pytest.raises(
        UsageError, match=r"^cityscapes: 4 files are missing; complete the download:\n.*_disparity\.png"
    ):
        check_labels(dataset, [semseg, disparity], Notes())
    assert len(list(cache.iterdir())) == 1


def test_a_search_does_not_begin_with_wrong_labels(tmp_path: Path, cache: Path) -> None:
    root = write_raw(tmp_path / "data")
    save(root / "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png", np.full((8, 16), 99, dtype=np.uint8))
    dataset = opened(root)
    with pytest.raises(UsageError, match=r"^cityscapes: 1 problems in images and labels:\n.*value 99"):
        check_labels(dataset, dataset.tasks, Notes())
    assert not cache.exists()


def test_the_mark_of_checked_data_has_a_short_name(tmp_path: Path, cache: Path) -> None:
    root = write_omniglot(tmp_path / "data")
    for number in range(40):
        shutil.copytree(root / "images_background/Greek", root / f"images_background/A_rather_long_name_{number}")
    dataset = opened(root)
    for tasks in (dataset.tasks, dataset.tasks[:2]):  # other tasks, another mark
        check_labels(dataset, tasks, Notes())
        again = Notes()
        check_labels(dataset, tasks, again)
        assert again.steps == []
    assert [len(mark.name) for mark in cache.iterdir()] == [64 + 1 + 64] * 2


def test_a_search_reads_images_with_labels_of_its_tasks(tmp_path: Path, cache: Path) -> None:
    root = write_omniglot(tmp_path / "data")
    for path in root.glob("images_background/Greek/*/*.png"):
        path.write_bytes(b"")
    dataset = opened(root)
    progress = Notes()
    check_labels(dataset, [task for task in dataset.tasks if task.name == "Malayalam"], progress)
    assert progress.notes == ["images: 32 train, 8 val; 140 more have no label of these tasks and are left out"]
    with pytest.raises(UsageError, match=r"Greek.* is not an image .*\(and 59 more files with the same problem\)"):
        check_labels(dataset, [task for task in dataset.tasks if task.name == "Greek"], Notes())


def test_a_search_does_not_begin_without_labels_to_validate_on(tmp_path: Path, cache: Path) -> None:
    own_data(tmp_path)
    (tmp_path / "fg/c.png").unlink()
    dataset = open_dataset(str(tmp_path / "own.yaml"))
    with pytest.raises(UsageError, match="own: no image of the split 'val' has a label of fg; choose other tasks"):
        check_labels(dataset, dataset.tasks[:1], Notes())


def test_tasks_that_are_left_out_are_not_read(tmp_path: Path) -> None:
    root = pascal(tmp_path / "PASCAL_MT", db_info=False)
    dataset = opened(root)
    report = inspect(dataset)
    assert (report.problems, report.missing, report.read) == ((), (), 4)
    assert [t.task.name for t in report.tasks if t.left_out] == ["normals"]
    assert [t["name"] for t in report.to_json()["tasks"] if t["left_out"]] == ["normals"]
    assert any("normals are left out" in remark for remark in report.remarks)
    assert "normals" not in pick_sample(dataset).labels
    (root / "normals_distill/2008_000002.png").unlink()
    assert inspect(dataset).missing == ()
    asked = inspect(dataset, tasks=["normals", "semseg"])
    assert [t.task.name for t in asked.tasks if t.left_out] == ["parts", "saliency", "edge"]
    assert asked.missing == (root / "normals_distill/2008_000002.png",)
    (problem,) = asked.problems
    assert "copy the folder db_info" in problem.message
    with pytest.raises(UsageError, match="did you mean 'normals'"):
        inspect(dataset, tasks=["normal"])


def test_the_images_that_are_read_have_labels_of_the_tasks(tmp_path: Path) -> None:
    dataset = opened(write_omniglot(tmp_path / "data"))
    for path in (tmp_path / "data/images_evaluation/Malayalam").rglob("*.png"):
        path.write_bytes(b"")
    assert inspect(dataset, tasks=["Greek"], per_split=5).problems == ()
    assert len(list(check(dataset, tasks=["Malayalam"], limit=5))) == 10
    assert inspect(dataset, tasks=["Greek"], per_split=None).read == 180  # all is all
    assert set(pick_sample(dataset, tasks=["Greek"]).labels) == {"Greek"}


def test_many_tasks_are_told_in_one_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmtas.data.check.SHOWN", 3)
    dataset = opened(write_omniglot(tmp_path / "data"))
    progress = Notes()
    check_labels(dataset, dataset.tasks, progress)
    assert progress.notes == ["images: 144 train, 36 val; 4 tasks have labels for 40 to 60 of 180"]


def test_all_of_own_data_is_read(tmp_path: Path, cache: Path) -> None:
    dataset = own_data(tmp_path)
    progress = Notes()
    check_labels(dataset, dataset.tasks, progress)
    assert progress.done == 3
    assert progress.notes == ["images: 2 train, 1 val; fg has labels for 2 of 3: is a suffix or a folder wrong?"]
    assert len(list(cache.iterdir())) == 1
    assert list(check(dataset, limit=1)) == []


def test_a_report_of_nothing_wrong_is_well() -> None:
    report = DataReport("x", "v", None, (), (1, 1), (), (), (), 0, ())
    assert report.ok

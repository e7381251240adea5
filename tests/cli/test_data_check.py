"""`bmtas data check` as people call it: what is printed, the exit code, the JSON, the picture, and nothing in the data's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.downloaded import state
from tests.data.trees_cityscapes import save, write_npy, write_raw
from tests.data.trees_omniglot import write_omniglot
from tests.data.trees_pascal import pascal
from tests.data.trees_taskonomy import VIEWS, write_taskonomy


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds no data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def panels(path: Path) -> int:
    """Count the panels of a picture whose images are as wide as each other: their titles begin two pixels from the left."""
    with Image.open(path) as picture:
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return picture.width


def test_a_good_download(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    root = write_taskonomy(tmp_path / "data")
    before = state(root)
    result = bmtas("data", "check", root)
    assert result.code == 0, result.err
    text = words(result.out)
    assert text.startswith(f"taskonomy: by building and domain in {root} - no CSV file of the official split")
    assert "size to work at: 12 high, 16 wide" in text
    for row in ("train 6", "val 3", "test 3", "semseg segmentation 17 12 12", "normals normals 12 12"):
        assert row in text
    assert "difference" not in text  # nobody knows how many images the split has
    assert "12 of 12 images read with their labels: nothing wrong in them" in text
    assert "with 5 labels: data-check.png" in text
    assert panels(here / "data-check.png") == 6 * 12 * 16  # 16 pixels are enlarged twelve times to be 192 or more
    assert list(here.iterdir()) == [here / "data-check.png"]
    assert "read images: 12/12" in result.err
    assert state(root) == before


def test_json(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    root = write_taskonomy(tmp_path / "data")
    result = bmtas("data", "check", root, "--json", "-", "--quiet", "--picture", "look.png", "--all")
    assert (result.code, result.err) == (0, "")
    data = json.loads(result.out)
    assert (data["schema_version"], data["ok"], data["name"], data["read"]) == (1, True, "taskonomy", 12)
    assert data["splits"]["val"] == {"images": 3, "published": None, "difference": None}
    assert [task["name"] for task in data["tasks"]] == ["semseg", "normals", "depth", "keypoints", "edges"]
    assert data["picture"]["panels"] == 6
    assert data["picture"]["file"] == "look.png"
    assert data["missing"] == data["problems"] == []
    assert (here / "look.png").is_file()
    result = bmtas("data", "check", root, "--json", "report.json")
    assert words(result.out).startswith("taskonomy")
    assert json.loads((here / "report.json").read_text())["read"] == 12


def test_missing_files_and_images(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    root = write_raw(tmp_path / "data")
    gone = sorted(root.rglob("disparity/*/*/*.png"))[:2]
    for path in gone:
        path.unlink()
    result = bmtas("data", "check", root)
    assert result.code == 2
    text = words(result.out)
    assert "train 3 2975 -2972" in text
    assert "val 1 500 -499" in text
    assert "semseg segmentation 19 4 4 disparity regression 2 4" in text
    assert "2 files are missing; complete the download:" in text
    for path in gone:
        assert str(path) in result.out
    assert "4 of 4 images looked at: nothing wrong in the files that are there" in text
    assert all(result.out.count(str(path)) == 1 for path in gone)  # not told once more as files that cannot be read
    data = json.loads(bmtas("data", "check", root, "--json", "-", "--quiet").out)
    assert data["missing"] == [str(path) for path in gone]
    assert data["splits"]["train"]["difference"] == -2972


def test_more_than_five_missing_files_are_counted(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    root = write_omniglot(tmp_path / "data")
    dropped = sorted((root / "images_evaluation/Malayalam").rglob("*.png"))
    result = bmtas("data", "check", root)
    assert result.code == 2  # 9 of 1623 characters
    assert "train 144 25968 -25824" in words(result.out)
    assert "nothing wrong in them" in words(result.out)
    for path in dropped[:7]:
        path.write_bytes(b"")
    result = bmtas("data", "check", root, "--all")
    assert "7 problems in 180 of 180 images" in words(result.out)
    assert "is not an image that Pillow can read" in result.out
    assert "(and 6 more files with the same problem)" in result.out
    npy = write_npy(tmp_path / "npy", 7)
    for number in (0, 2, 10):
        for name in ("label_7", "depth"):
            (npy / f"train/{name}/{number}.npy").unlink()
    result = bmtas("data", "check", npy)
    assert result.code == 2
    assert "6 files are missing" in result.out
    assert "... and 1 more" in result.out


def test_a_chosen_sample(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    root = write_taskonomy(tmp_path / "data")
    (root / f"Darden/normal/{VIEWS[1]}_domain_normal.png").unlink()
    result = bmtas("data", "check", root, "--sample", f"Darden/{VIEWS[1]}", "--quiet")
    assert result.code == 0
    assert f"picture of Darden/{VIEWS[1]} with 4 labels: data-check.png" in result.out
    assert panels(here / "data-check.png") == 5 * 192
    result = bmtas("data", "check", root, "--sample", "Darden/point_9_view_9")
    assert (result.code, result.out) == (2, "")
    assert "taskonomy has no image 'Darden/point_9_view_9'; ids look like 'Darden/point_" in result.err
    save(root / f"Darden/rgb/{VIEWS[1]}_domain_rgb.png", np.zeros((3, 3, 3), dtype=np.uint8))
    result = bmtas("data", "check", root, "--sample", f"Darden/{VIEWS[1]}", "--quiet")
    assert result.code == 2
    assert "problems in 12 of 12 images" in result.out
    assert "no picture: " in result.out


def test_nothing_is_written_into_the_data(
    bmtas: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_taskonomy(tmp_path / "data")
    before = state(root)
    for option in ("--picture", "--json"):
        result = bmtas("data", "check", root, option, root / "Darden" / "look")
        assert result.code == 2
        assert (
            f"{option} {root}/Darden/look lies in the folder of the data, into which nothing is written" in result.err
        )
    monkeypatch.chdir(root)
    result = bmtas("data", "check", ".")
    assert result.code == 0
    assert (
        "no picture: the current folder belongs to the data, as that of the manifest does; name a file elsewhere by --picture"
        in result.out
    )
    assert state(root) == before


def test_nothing_is_written_into_the_folder_around_the_data(
    bmtas: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = tmp_path / "around"
    write_taskonomy(around / "data")
    before = state(around)
    monkeypatch.chdir(around)
    for place in (".", around, "../around"):
        result = bmtas("data", "check", place)
        assert result.code == 0
        assert (
            "no picture: the current folder belongs to the data, as that of the manifest does; name a file elsewhere by --picture"
            in result.out
        )
    result = bmtas("data", "check", ".", "--picture", "look.png")
    assert result.code == 2
    assert "--picture look.png lies in the folder of the data" in result.err
    assert state(around) == before
    result = bmtas("data", "check", "data")  # named by itself, what lies beside it is elsewhere
    assert "data-check.png" in result.out
    assert (around / "data-check.png").is_file()


def test_tasks_that_are_left_out_are_told_and_may_be_asked_for(
    bmtas: Callable[..., Any], tmp_path: Path, here: Path
) -> None:
    root = pascal(tmp_path / "PASCAL_MT", db_info=False)
    text = words(bmtas("data", "check", root, "--quiet").out)
    assert "4 of 4 images read with their labels: nothing wrong in them" in text
    assert "left out unless named by --tasks: normals" in text
    assert "- normals are left out unless they are named:" in text
    result = bmtas("data", "check", root, "--tasks", "normals, edge", "--quiet")
    assert result.code == 2
    assert "4 problems in 4 of 4 images:" in words(result.out)
    assert "copy the folder db_info there" in result.out
    assert "left out unless named by --tasks: semseg, parts, saliency" in result.out
    assert "no picture: " in result.out
    result = bmtas("data", "check", root, "--tasks", "edge", "--json", "-", "--quiet")
    data = json.loads(result.out)
    assert (data["problems"], data["picture"]["panels"]) == ([], 2)
    assert [task["name"] for task in data["tasks"] if not task["left_out"]] == ["edge"]
    result = bmtas("data", "check", root, "--tasks", "edges")
    assert (result.code, result.out) == (2, "")
    assert "unknown task 'edges'; did you mean 'edge'" in result.err


def test_what_is_unknown_is_refused(bmtas: Callable[..., Any], tmp_path: Path, here: Path) -> None:
    (tmp_path / "photos").mkdir()
    result = bmtas("data", "check", tmp_path / "photos")
    assert (result.code, result.out) == (2, "")
    assert "holds no manifest.yaml and none of the data sets that are known by their files; `bmtas init " in result.err
    assert "Taskonomy: <building>/rgb/" in result.err
    result = bmtas("data", "check", "scense")
    assert result.code == 2
    assert "did you mean 'scenes'" in result.err
    root = write_raw(tmp_path / "half")
    shutil.rmtree(root / "gtFine")
    result = bmtas("data", "check", root)
    assert result.code == 2
    assert "unpack gtFine_trainvaltest.zip" in result.err
    assert list(here.iterdir()) == []


def test_own_and_generated_data(bmtas: Callable[..., Any], tiny_data: Path, here: Path) -> None:
    before = state(tiny_data.parent)
    result = bmtas("data", "check", tiny_data)
    assert result.code == 0, result.err
    assert words(result.out).startswith(f"tiny: own images, described by {tiny_data}")
    assert "depth depth 12 12" in words(result.out)
    assert panels(here / "data-check.png") == 4 * 192
    assert state(tiny_data.parent) == before
    result = bmtas("data", "check", "planted", "--quiet")
    assert result.code == 0
    assert "planted: generated size to work at" in words(result.out)


def test_help(bmtas: Callable[..., Any]) -> None:
    assert "data" in bmtas("--help").out
    text = words(bmtas("data", "check", "--help").out)
    for told in ("--all", "--tasks", "--picture", "--sample", "--json", "Exit code 0 if all is well, 2 if"):
        assert told in text

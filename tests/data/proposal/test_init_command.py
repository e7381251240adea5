"""`bmtas init` as people call it: the table, the next commands, the JSON, the picture, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.main import run
from tests.data.proposal.trees_own import SIZE, photograph, save, write_standard


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_standard(tmp_path / "own", "{role}/{i:04d}.png")
    return tmp_path / "own"


def test_a_folder_of_ones_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(own), "--output", "my.yaml", "--samples", "2"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.replace("│", " ").split())
    assert "depth depth 10 of 10 16 bits, values 11" in text
    assert "semseg segmentation, 4 classes 10 of 10 4 distinct values 0..3 in 10 files, 255 in none" in text
    assert "images: 8 train, 2 val" in text
    assert "bmtas data check my.yaml --all" in text
    assert "bmtas search --data my.yaml --budget " in text
    assert "count values of semseg: 10/10" in err
    with Image.open("my.png") as picture:
        # Three tasks beside the image, each enlarged to at least 192 pixels, in two rows under a line of titles.
        assert picture.size == (4 * 3 * SIZE[1], 2 * (3 * SIZE[0] + 14))
    assert run(["data", "check", "my.yaml", "--all"]) == 0
    assert "10 of 10 images read with their labels: nothing wrong" in " ".join(capsys.readouterr().out.split())


def test_the_proposed_budget_can_be_searched_with(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(own), "--json", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert (found["manifest"], found["picture"], found["size"]) == ("bmtas.yaml", "bmtas.png", list(SIZE))
    assert {task["name"]: task["kind"] for task in found["tasks"]} == {
        "depth": "depth",
        "edge": "edge",
        "semseg": "segmentation",
    }
    assert run(["search", "--data", "bmtas.yaml", "--budget", found["budget"], "--dry-run", "--weights", "none"]) == 0


def test_nothing_is_overwritten_without_force(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bmtas.yaml").write_text("mine\n")
    assert run(["init", str(own)]) == 2
    assert "bmtas.yaml exists and is not overwritten" in capsys.readouterr().err
    assert Path("bmtas.yaml").read_text() == "mine\n"
    assert run(["init", str(own), "--force", "--quiet"]) == 0
    assert "kind: depth" in Path("bmtas.yaml").read_text()
    Path("bmtas.png").unlink()
    save(Path("bmtas.png"), photograph(5))
    before = Path("bmtas.png").read_bytes()
    assert run(["init", str(own), "--force"]) == 2
    assert "bmtas.png was not drawn by bmtas init" in " ".join(capsys.readouterr().err.split())
    assert Path("bmtas.png").read_bytes() == before
    assert run(["init", str(own), "--force", "--quiet", "--picture", "bmtas.png"]) == 0
    assert run(["init", str(own), "--force", "--quiet"]) == 0  # the picture is its own now
    assert Path("bmtas.png").read_bytes() != before
    Path("d.yaml").mkdir()
    Path("d.png").mkdir()
    assert run(["init", str(own), "--force", "--output", "d.yaml"]) == 2
    assert "d.yaml is a folder; name a file by --output" in capsys.readouterr().err
    assert run(["init", str(own), "--output", "e.yaml", "--picture", "d.png"]) == 2
    assert "d.png is a folder; name a file by --picture" in capsys.readouterr().err


def test_the_picture_never_becomes_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images lie in the folder itself, where every PNG file is one of them."""
    for i in range(6):
        save(tmp_path / f"flat/{i}.png", photograph(i))
    (tmp_path / "flat/scene.csv").write_text("id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(6)))
    monkeypatch.chdir(tmp_path / "flat")
    assert run(["init", ".", "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] is None
    written = Path("bmtas.yaml").read_text()
    assert run(["init", ".", "--force"]) == 0
    assert "no picture: bmtas.png would be read as one of the images or labels" in capsys.readouterr().out
    assert Path("bmtas.yaml").read_text() == written
    assert run(["data", "check", "bmtas.yaml", "--all"]) == 0
    assert "6 of 6 images read" in " ".join(capsys.readouterr().out.split())
    assert run(["init", ".", "--force", "--picture", "look.png"]) == 2
    assert "--picture look.png would stand among the images" in " ".join(capsys.readouterr().err.split())
    assert run(["init", ".", "--force", "--picture", "../look.png"]) == 0
    assert "picture of 3 images with their labels: ../look.png" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == [
        *(f"{i}.png" for i in range(6)),
        "bmtas.yaml",
        "scene.csv",
    ]


def test_a_photograph_is_not_overwritten(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own / "rgb")
    before = Path("0001.png").read_bytes()
    for named in ([], ["--picture", "0001.png"]):
        assert run(["init", "..", "--output", "0001.yaml", "--force", *named]) == 2
    assert Path("0001.png").read_bytes() == before
    assert not Path("0001.yaml").exists()


def test_the_same_is_found_beside_what_was_written(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    assert run(["init", ".", "--quiet"]) == 0
    written = Path("bmtas.yaml").read_text()
    assert Path("bmtas.png").exists()
    assert run(["init", ".", "--quiet", "--force"]) == 0
    assert Path("bmtas.yaml").read_text() == written


def test_an_unusual_folder(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "cats/1.jpg", photograph(1))
    assert run(["init", str(tmp_path / "cats")]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "1 images were found" in err
    assert "images/0001.jpg semseg/0001.png depth/0001.png" in err
    assert list(Path().iterdir()) == []
    assert run(["init", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err

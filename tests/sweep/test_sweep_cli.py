"""`bmtas sweep` from its options to the front, with its real commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Bmtas = Callable[..., Any]
SMALL = ("--data", "planted", "--backbone", "tiny", "--train-steps", "2")


@pytest.fixture(scope="module")
def swept(bmtas: Bmtas, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A sweep of three jobs, one of which asks for less than any network costs, and what it answered."""
    sweeps = tmp_path_factory.mktemp("swept")
    asked = ("--budget", "1MMAdds", "--budget", "5MMAdds", "--method", "vanilla", "--workers", "2", "--threads", "1")
    return sweeps, bmtas("sweep", *asked, *SMALL, "--sweeps", sweeps)


def test_a_budget_below_the_reach_fails_alone_and_is_told(swept: tuple[Path, Any]) -> None:
    sweeps, answer = swept
    assert answer.code == 1, answer.err
    assert "1 of 3 jobs failed" in answer.err
    assert answer.err.index("002-vanilla-1MMAdds-seed0 will fail: budget 1MMAdds") < answer.err.index("sweep: ")
    assert "002-vanilla-1MMAdds-seed0: search ended with exit code 6: budget 1MMAdds" in answer.err
    states = [json.loads(path.read_text()) for path in sorted(sweeps.glob("001-planted/jobs/*/job.json"))]
    assert [(s["status"], s["exit_code"], s["attempts"]) for s in states] == [
        ("done", None, 1),
        ("failed", 6, 1),
        ("done", None, 1),
    ]


def test_the_front_in_all_its_forms(swept: tuple[Path, Any]) -> None:
    sweeps, answer = swept
    front = json.loads((sweeps / "001-planted/front.json").read_text())
    rows = {row["label"]: row for row in front["rows"]}
    assert set(rows) == {"single", "vanilla"}
    assert rows["single"]["delta_m_percent"]["mean"] == 0.0
    assert rows["vanilla"]["costs"]["madds"]["mean"] <= 5e6
    assert rows["vanilla"]["on_front"]  # the cheapest always is
    assert rows["single"]["on_front"] == (rows["vanilla"]["delta_m_percent"]["mean"] < 0.0)
    assert rows["vanilla"]["jobs"] == ["003-vanilla-5MMAdds-seed0"]
    assert rows["single"]["jobs"] == ["001-single-seed0"]
    markdown = (sweeps / "001-planted/front.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in markdown[2:4]] == [
        r"\*" if rows[name]["on_front"] else "" for name in ("single", "vanilla")
    ]
    assert "on the Pareto front" in answer.out
    with Image.open(sweeps / "001-planted/front.png") as picture:
        assert min(picture.size) > 300


def test_a_dry_run_of_the_same_command_says_what_is_done_already(
    bmtas: Bmtas, swept: tuple[Path, Any], tmp_path: Path
) -> None:
    sweeps, _ = swept
    asked = ("--budget", "1MMAdds", "--budget", "5MMAdds", "--method", "vanilla", *SMALL, "--sweeps", sweeps)
    answer = bmtas("sweep", *asked, "--dry-run", "--json", "-")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["sweep"] == str(sweeps / "001-planted")
    assert [job["status"] for job in told["jobs"]] == ["done", "failed", "done"]
    assert told["threads"] == 1  # those that it was begun with, whatever this machine has
    assert [path.name for path in sweeps.iterdir()] == ["001-planted"]
    shutil.copytree(sweeps, tmp_path / "copy")
    (last,) = (tmp_path / "copy" / "001-planted" / "jobs").glob("003-*")
    shutil.rmtree(last / "runs")
    answer = bmtas("sweep", *asked[:-1], tmp_path / "copy", "--dry-run", "--json", "-")
    assert [job["status"] for job in json.loads(answer.out)["jobs"]] == ["done", "failed", "gone"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bugdet", "9GMAdds"), "No such option: --bugdet"),
        (("--from", "1"), "--from means nothing to a sweep"),
        (("--no-train", "--bench"), "--bench measures trained networks"),
        (("--points", "3"), "go with --decode"),
        (("--method", "mtl-nas", "--method", "mtan", "--set", "init=backbone"), "--set is a setting of one method"),
        (("--method", "fafs", "--set", "init=backbone"), "none of those of the sweep have settings of their own"),
        (("--budget", "9GFLOPs"), "MAdds are meant"),
        (("--data", "nowhere.yaml", "--budget", "9GMAdds"), "nowhere.yaml"),
        (("--name", "a/b"), "without slashes"),
    ],
)
def test_what_it_refuses_before_anything_is_written(
    arguments: tuple[str, ...], words: str, bmtas: Bmtas, tmp_path: Path
) -> None:
    answer = bmtas("sweep", *arguments, "--sweeps", tmp_path / "sweeps")
    assert answer.code == 2
    assert words in " ".join(answer.err.split())
    assert not (tmp_path / "sweeps").exists()


def test_a_sweep_none_of_whose_budgets_can_be_met_is_refused(bmtas: Bmtas, tmp_path: Path) -> None:
    asked = ("--budget", "1MMAdds", "--budget", "2MMAdds", "--method", "vanilla", *SMALL)
    answer = bmtas("sweep", *asked, "--sweeps", tmp_path / "sweeps")
    assert answer.code == 6
    assert "reachable is 3.251 MMAdds" in answer.err
    assert not (tmp_path / "sweeps").exists()


SETTINGS = """
plugins = ["~/own.py"]
runs = "elsewhere"

[search]
data = "planted"
backbone = "tiny"
budget = ["6MMAdds", "9MParams"]
method = "mtl-nas"
seed = 7
decode = "argmax"
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, which is also the user's home, with a settings file."""
    (tmp_path / "own.py").write_text("", encoding="utf-8")
    (tmp_path / "bmtas.toml").write_text(SETTINGS, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_settings_file_says_of_searches_holds_for_a_sweep(bmtas: Bmtas, configured: Path) -> None:
    answer = bmtas("sweep", "--set", "init=backbone", "--dry-run", "--json", "-")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [job["name"] for job in told["jobs"]] == ["001-single-seed7", "002-mtl-nas-6MMAdds-9MParams-seed7"]
    assert told["plugins"] == [str(configured / "own.py")]
    assert "not taken from [search] of the settings file: decode" in answer.err
    assert "--set: not given to single" in answer.err


@pytest.mark.parametrize(
    ("line", "words"), [('runs = "x"', "[sweep] of a settings file has no runs"), ('decode = "1"', "type --decode")]
)
def test_what_a_settings_file_cannot_say_of_sweeps(line: str, words: str, bmtas: Bmtas, configured: Path) -> None:
    with (configured / "bmtas.toml").open("a", encoding="utf-8") as file:
        file.write(f"[sweep]\n{line}\n")
    answer = bmtas("sweep", "--dry-run")
    assert (answer.code, words in " ".join(answer.err.split())) == (2, True), answer.err

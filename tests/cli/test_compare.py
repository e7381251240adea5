"""`bmtas compare` on real runs, and networks that one run takes over from another."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, bmtas: Command) -> Path:
    """Return a folder with a single and a BMN run of the same seed, and a single one of another, all trained."""
    folder = tmp_path_factory.mktemp("compared") / "runs"
    for method, seed in (("single", 0), ("bmn", 0), ("single", 1)):
        search = ("search", "--data", "planted", "--backbone", "tiny", "--train-steps", 3, "--seed", seed)
        for command in ((*search, "--method", method), ("train",)):
            done = bmtas(*command, "--runs", folder, "--device", "cpu")
            assert done.code == 0, done.err
            if command[0] == "search" and method == "bmn":
                assert "separate is the same network as found of 001-planted-single" in done.err
    return folder


def test_a_network_that_another_run_has_trained_is_taken_over(runs: Path) -> None:
    single, taken, other = (
        torch.load(runs / name / "weights.pt", weights_only=True)["network"]
        for name in (
            "001-planted-single/networks/found",
            "002-planted-bmn-4.274MMAdds/networks/separate",
            "003-planted-single/networks/found",
        )
    )
    assert all(torch.equal(value, taken[name]) for name, value in single.items())
    assert any(not torch.equal(value, other[name]) for name, value in single.items())  # another seed


def test_all_forms_of_the_table(runs: Path, tmp_path: Path, bmtas: Command) -> None:
    files = {form: tmp_path / f"table.{form}" for form in ("markdown", "latex", "csv", "json")}
    picture = tmp_path / "pareto.png"
    options = [part for form, path in files.items() for part in (f"--{form}", path)]
    done = bmtas("compare", "--runs", runs, *options, "--picture", picture)
    assert done.code == 0, done.err
    assert "bmn" in done.out
    data = json.loads(files["json"].read_text())
    assert [(row["label"], row["seeds"]) for row in data["rows"]] == [("single", [0, 1]), ("bmn", [0])]
    single, bmn = csv.DictReader(files["csv"].read_text().splitlines())
    measured = json.loads((runs / "002-planted-bmn-4.274MMAdds/networks/found/metrics.json").read_text())["tasks"]["a1"]
    assert float(bmn["a1.mean_angle_deg"]) == measured["value"]
    assert float(bmn["a1.median_angle_deg"]) == measured["more"]["median_angle_deg"]
    counted = json.loads((runs / "001-planted-single/architecture.json").read_text())["measured"]["madds"]  # by fvcore
    assert float(single["madds"]) == counted
    assert files["markdown"].read_text().count("\n| ") == 3
    assert files["latex"].read_text().count(r"\\") == 3
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_some_runs_by_name(runs: Path, bmtas: Command) -> None:
    done = bmtas("compare", "003-planted-single", "--runs", runs, "--json", "-")
    assert done.code == 0, done.err
    assert [row["seeds"] for row in json.loads(done.out)["rows"]] == [[1]]


def test_unlike_runs_and_runs_without_results_are_refused(runs: Path, tmp_path: Path, bmtas: Command) -> None:
    other = bmtas(
        "search",
        "--data",
        "planted",
        "--backbone",
        "tiny",
        "--tasks",
        "a1,a2",
        "--method",
        "shared",
        "--runs",
        tmp_path,
    )
    assert other.code == 0, other.err
    done = bmtas("compare", tmp_path / "001-planted-shared", runs / "001-planted-single")
    assert done.code == 2
    assert "different tasks: a1, a2 and a1, a2, b1, b2" in " ".join(done.err.split())
    done = bmtas("compare", "--runs", tmp_path)
    assert done.code == 2
    assert "has a measured network" in " ".join(done.err.split())


def test_it_needs_no_torch(runs: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from cli.main import run\n"
        f"sys.exit(run(['compare', '--runs', {str(runs)!r}]))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[2])

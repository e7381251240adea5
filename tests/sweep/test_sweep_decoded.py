"""The decoded front of a finished search, beside what `bmtas decode` hands over for the same budgets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bmtas.runs import Run, open_run
from bmtas.sweep.decoded import NO_QUALITY

Bmtas = Callable[..., Any]
SEARCH = ("search", "--data", "planted", "--backbone", "tiny", "--warmup-steps", "2", "--search-steps", "6")


@pytest.fixture(scope="module")
def searched(bmtas: Bmtas, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("decoded") / "runs"
    assert bmtas(*SEARCH, "--budget", "4.5MMAdds", "--runs", runs).code == 0
    return open_run(runs, None)


def decoded(bmtas: Bmtas, run: Run, *arguments: object) -> dict[str, Any]:
    result = bmtas("sweep", "--decode", run.path, *arguments, "--json", "-", "--quiet")
    assert result.code == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def test_each_budget_has_the_tree_that_decode_hands_over(bmtas: Bmtas, searched: Run) -> None:
    budgets = ("3.6MMAdds", "4.1MMAdds", "4.9MMAdds")
    trees = decoded(bmtas, searched, *(part for text in budgets for part in ("--budget", text)))["trees"]
    of_budget = {budget[0]: tree for tree in trees for budget in tree["budgets"]}
    assert set(of_budget) == set(budgets)
    for text in budgets:
        result = bmtas(
            "decode", "--run", searched.path, "--runs", searched.path.parent, "--budget", text, "--json", "-"
        )
        handed_over = json.loads(result.out)
        assert of_budget[text]["groupings"] == handed_over["groupings"]
        assert of_budget[text]["costs"] == handed_over["costs"]
        assert of_budget[text]["log_probability"] == handed_over["log_probability"]


def test_the_grid_covers_the_reach_with_distinct_trees(bmtas: Bmtas, searched: Run) -> None:
    front = decoded(bmtas, searched, "--points", 9)
    table, trees = searched.table(), front["trees"]
    assert front["note"] == NO_QUALITY
    madds = [tree["costs"]["madds"] for tree in trees]
    assert madds == sorted(madds)
    assert madds[0] == table.shared_total(next(r for r in table.resources() if r.value == "madds"))
    assert trees[0]["groups"] == [1] * 6
    chances = [tree["log_probability"] for tree in trees]
    assert chances == sorted(chances)  # a greater budget allows whatever a smaller one does
    assert len({json.dumps(tree["groupings"]) for tree in trees}) == len(trees)
    assert sum(len(tree["budgets"]) for tree in trees) == 9
    for tree in trees:
        assert tree["groups"] == [len(grouping) for grouping in tree["groupings"]]


def test_it_is_kept_beside_the_search_and_says_what_it_does_not_say(bmtas: Bmtas, searched: Run) -> None:
    result = bmtas("sweep", "--decode", searched.name, "--runs", searched.path.parent, "--points", 3)
    assert result.code == 0, result.err
    assert NO_QUALITY in " ".join(result.out.split())
    kept = json.loads((searched.search_folder / "decoded_front.json").read_text())
    assert kept["schema_version"] == 1
    with Image.open(searched.search_folder / "decoded_front.png") as picture:
        assert min(picture.size) > 300


def test_without_matplotlib_the_table_is_shown_and_the_picture_left_out(
    bmtas: Bmtas, searched: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also: of a settings file no budgets are taken, which are those of sweeps."""
    (tmp_path / "bmtas.toml").write_text('[sweep]\nbudget = ["1MMAdds"]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = bmtas("sweep", "--decode", searched.path, "--points", 2)
    assert result.code == 0, result.err
    assert "most probable trees by budget" in result.out
    assert "no picture: " in result.err
    assert "matplotlib" in result.err
    assert "decoded_front.png" not in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--budget", "1MMAdds"), 6, "reachable is 3.251 MMAdds"),
        (("--seed", "1"), 2, "nothing is searched or trained for it"),
        (("--train-steps", "1"), 2, "nothing is searched or trained for it"),
        (("--budget", "9GFLOPs"), 2, "MAdds are meant"),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], code: int, words: str, bmtas: Bmtas, searched: Run) -> None:
    result = bmtas("sweep", "--decode", searched.path, *arguments)
    assert (result.code, words in " ".join(result.err.split())) == (code, True), result.err


def test_a_run_that_searched_no_tree_has_nothing_to_decode(bmtas: Bmtas, tmp_path: Path) -> None:
    made = ("search", "--data", "planted", "--backbone", "tiny", "--method", "shared", "--runs", tmp_path)
    assert bmtas(*made).code == 0
    result = bmtas("sweep", "--decode", "1", "--runs", tmp_path)
    assert result.code == 2
    assert "its method is shared" in result.err


def test_it_needs_no_torch(searched: Run) -> None:
    code = f"""
import sys
from cli.main import run
assert run(["sweep", "--decode", {str(searched.path)!r}, "--points", "3"]) == 0
assert "bmtas.sweep.decoded" in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

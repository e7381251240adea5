"""What a run's probabilities promise, as numbers and pictures, and what copies of one task cost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import costs
from bmtas.config import RunConfig
from bmtas.errors import UsageError
from bmtas.expectation import expect_run
from bmtas.files import write_json, write_text
from bmtas.networks.backbone import get_backbone
from bmtas.profile import build_table, cost_by_tasks, generic_tasks
from bmtas.runs import Run, create_run
from bmtas.tasks import Task, TaskKind
from cli.main import run as run_command
from costs.table import CostTable, FixedCost, LayerCost
from costs.units import Resource

ROOT = Path(costs.__file__).parent.parent
TASKS = (Task(name="a", kind=TaskKind.BINARY), Task(name="b", kind=TaskKind.DEPTH))


@pytest.fixture
def run(tmp_path: Path, run_config: Callable[[Sequence[Task], str], RunConfig]) -> Run:
    """A run of two tasks and two layers: together with 0.5 in the first, with 0.5 * 0.62 in the second."""
    config = run_config(TASKS, "150MAdds")
    cost = {Resource.MADDS: 40.0, Resource.PARAMS: 4.0}
    table = CostTable(
        backbone="mobilenet_v2",
        tasks=["a", "b"],
        input_size=(64, 64),
        batch=1,
        layers=[LayerCost(name=f"layers.{i:02d}", per_group=cost) for i in range(2)],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost=cost)],
        provenance={},
    )
    return create_run(tmp_path / "runs", "scenes", config, table)


def finish(run: Run) -> None:
    probs = [[[0.5, 0.5], [0.5, 0.5]], [[0.8, 0.2], [0.7, 0.3]]]
    write_json(run.search_folder / "probabilities.json", {"schema_version": 1, "probabilities": probs})
    steps = [{"step": 0, "phase": "weights", "loss.a": 1.0}]
    steps += [
        {"step": i, "phase": "architecture", "expected.madds": 200.0 - i, "multiplier.madds": i / 10}
        for i in range(1, 9)
    ]
    write_text(run.search_folder / "history.jsonl", "".join(json.dumps(step) + "\n" for step in steps))


def test_numbers_by_hand(run: Run) -> None:
    finish(run)
    found = expect_run(run)
    together = [0.5, 0.5 * (0.8 * 0.7 + 0.2 * 0.3)]
    for layer, p in zip(found["layers"], together, strict=True):
        assert layer["expected"]["madds"] == pytest.approx(40 * (2 - p), rel=1e-12)
        chances = {entry["grouping"]: entry["probability"] for entry in layer["groupings"]}
        assert chances == pytest.approx({"a+b": p, "a|b": 1 - p}, rel=1e-12)
    assert found["expected"]["madds"] == pytest.approx(40 * (1 + 4 - sum(together)), rel=1e-12)
    assert found["layers"][1]["groupings"][0]["grouping"] == "a|b"  # the likeliest comes first


def test_a_search_that_has_not_ended_promises_nothing(run: Run) -> None:
    with pytest.raises(UsageError, match="search has not ended"):
        expect_run(run)


def test_the_command_shows_table_and_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run)
    assert run_command(["show", "--expected", "--runs", str(run.path.parent)]) == 0
    shown = capsys.readouterr().out
    assert "layers.01" in shown
    assert "69.0% a|b" in shown
    assert run_command(["show", "--expected", "--json", "-", "--runs", str(run.path.parent)]) == 0
    assert json.loads(capsys.readouterr().out) == expect_run(run)


def test_the_command_needs_no_torch(run: Run) -> None:
    finish(run)
    code = (
        "import sys\nfrom cli.main import run\n"
        f"assert run(['show', '--expected', '--json', '-', '--runs', {str(run.path.parent)!r}]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_pictures(run: Run) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    from bmtas.plots import draw_search

    finish(run)
    paths = draw_search(run)
    assert [path.name for path in paths] == ["budget.png", "expected.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_copies_of_one_task() -> None:
    table = build_table(get_backbone("mobilenet_v2"), generic_tasks(3), (64, 64))
    rows = cost_by_tasks(table)
    assert [row["tasks"] for row in rows] == [1, 2, 3]
    one, _, three = ({k: row[k]["madds"] for k in ("shared", "expected", "split", "separate")} for row in rows)
    assert one["shared"] == one["expected"] == one["split"] == one["separate"]
    assert three["separate"] == 3 * one["shared"]
    assert three["shared"] < three["expected"] < three["split"] < three["separate"]
    # Uniform draws of three tasks agree, in a layer and all before, with (1/3)^l for two and (1/9)^l for three of them.
    groups = np.array([3 - 3 * (1 / 3) ** n + (1 / 9) ** n for n in range(1, len(table.layers) + 1)])
    expected = groups @ table.layer_costs(Resource.MADDS) + table.fixed_cost(Resource.MADDS)
    assert three["expected"] == pytest.approx(expected, rel=1e-12)


def test_profile_of_a_number_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["profile", "--tasks-count", "2", "--size", "64x64", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["tasks"] for row in data["by_tasks"]] == [1, 2]
    assert data["tasks"] == ["task1", "task2"]


def test_an_unreachable_budget_ends_with_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", "--budget", "1MAdds", "--size", "64x64", "--weights", "none", "--dry-run"]
    assert run_command([*arguments, "--runs", str(tmp_path)]) == 6
    message = " ".join(capsys.readouterr().err.split())
    assert "reachable is" in message
    assert "all layers shared" in message

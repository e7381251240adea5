"""What a run's probabilities promise, as numbers and pictures, and what copies of one task cost."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import costs
from bmtas.config import RunConfig
from bmtas.errors import UsageError
from bmtas.expectation import expect, expect_run, expected_totals
from bmtas.files import write_json, write_text
from bmtas.networks.backbone import get_backbone
from bmtas.profile import cost_by_tasks, generic_tasks, tables_by_count
from bmtas.runs import Run, create_run
from bmtas.tasks import Task, TaskKind
from cli.main import run as run_command
from costs.errors import CostError
from costs.expected import expected_cost, expected_groups, expected_layer_costs
from costs.parts import FixedCost, LayerCost
from costs.subsets import expected_groups_of
from costs.table import CostTable
from costs.units import Resource, parse_budget

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


def test_probabilities_that_are_gone_are_told_from_a_search_that_has_not_ended(run: Run) -> None:
    write_json(run.architecture_path, {"schema_version": 1})
    with pytest.raises(
        UsageError, match=r"probabilities\.json is missing, though the search .* has ended; put it back"
    ):
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
    paths = draw_search(run, expect_run(run))
    assert [path.name for path in paths] == ["budget.png", "expected.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def texts_of(path: Path) -> list[str]:
    """Return the lines of text of a picture in SVG, in which matplotlib names what each drawn word says."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def test_a_history_without_an_architecture_step_is_told_in_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bmtas.plots import draw_budgets

    budgets = [parse_budget("1GMAdds"), parse_budget("5MiB")]
    steps: list[dict[str, Any]] = [{"step": 0, "phase": "weights"}]
    steps += [{"step": i, "expected.peak_memory_mib": 6.0 - i, "multiplier.peak_memory_mib": 0.1} for i in (1, 2)]
    draw_budgets(steps, budgets, tmp_path / "budget.svg")
    texts = texts_of(tmp_path / "budget.svg")
    assert {"no architecture step", "with an expected cost in MAdds", "budget 5MiB", "greatest expected layer"} <= set(
        texts
    )
    assert "budget 1GMAdds" not in texts  # no legend of nothing
    draw_budgets([], budgets[:1], tmp_path / "empty.svg")
    assert texts_of(tmp_path / "empty.svg") == ["no architecture step", "with an expected cost in MAdds"]


# --- other tables, and more tasks

MADDS, PARAMS, MS, _, MIB = Resource


def mixed_table(tasks: int) -> CostTable:
    """Return a table of three layers with costs that are proportional, and costs by number of groups."""
    squares = [float(n * n) for n in range(1, tasks + 1)]
    return CostTable(
        backbone="toy",
        tasks=[f"t{i}" for i in range(tasks)],
        input_size=(8, 8),
        batch=1,
        depends_on={MADDS: "groups_proportional", MS: "group_count", MIB: "group_count"},
        layers=[
            LayerCost(name=f"l{i}", per_group={MADDS: 10.0}, per_count={MS: squares, MIB: squares}) for i in range(3)
        ],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={MADDS: 1.0, MS: 2.0, MIB: 3.0})],
        provenance={},
    )


def random_rows(seed: int, layers: int, tasks: int) -> np.ndarray:
    rows = np.random.default_rng(seed).exponential(size=(layers, tasks, tasks)) ** 2
    return rows / rows.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("tasks", [1, 2, 3, 6, 12])
def test_the_number_of_groups_over_sets_of_tasks_is_that_of_torch(tasks: int) -> None:
    probs = random_rows(tasks, 4, tasks)
    expected = expected_groups(torch.from_numpy(probs)).numpy()
    np.testing.assert_allclose(expected_groups_of(probs), expected, rtol=1e-11)


def test_the_number_of_groups_by_hand() -> None:
    # Two tasks, together with 0.8 * 0.7 + 0.2 * 0.3 = 0.62, then with half of that.
    found = expected_groups_of([[[0.8, 0.2], [0.7, 0.3]], [[0.5, 0.5], [0.5, 0.5]]])
    np.testing.assert_allclose(found, [1.38, 1.69], rtol=1e-12)
    # Fourteen tasks of which each draws one of two alike: one group with 2^-13, else two.
    np.testing.assert_allclose(expected_groups_of(np.full((1, 14, 2), 0.5)), [2 - 2.0**-13], rtol=1e-11)
    # Twenty tasks that agree for certain, and then differ for certain.
    certain = np.zeros((2, 20, 20))
    certain[0, :, 3] = 1.0
    certain[1] = np.eye(20)
    np.testing.assert_allclose(expected_groups_of(certain), [1, 20], rtol=1e-9)
    with pytest.raises(CostError, match=r"21 tasks.*up to 20"):
        expected_groups_of(np.full((1, 21, 2), 0.5))
    with pytest.raises(CostError, match="differs from a distribution"):
        expected_groups_of(np.full((1, 2, 2), 0.6))


def test_costs_by_number_of_groups_by_hand() -> None:
    found = expect(mixed_table(2), np.full((3, 2, 2), 0.5))
    # Together with 1/2, 1/4, 1/8; squares of one and two groups are 1 and 4.
    together = [0.5, 0.25, 0.125]
    for layer, p in zip(found["layers"], together, strict=True):
        assert layer["expected"] == pytest.approx(
            {"madds": 10 * (2 - p), "latency_ms": 4 - 3 * p, "peak_memory_mib": 4 - 3 * p}, rel=1e-12
        )
    assert found["expected"]["latency_ms"] == pytest.approx(2 + 12 - 3 * sum(together), rel=1e-12)
    assert found["expected"]["peak_memory_mib"] is None
    assert list(found["left_out"]) == ["peak_memory_mib"]
    assert "maximum over layers" in found["left_out"]["peak_memory_mib"]
    assert expected_totals(mixed_table(2), np.full((3, 2, 2), 0.5)) == found["expected"]


def test_all_resources_agree_with_what_the_search_computes() -> None:
    table, probs = mixed_table(4), random_rows(7, 3, 4)
    found = expect(table, probs)
    for resource in table.resources():
        expected = expected_layer_costs(torch.from_numpy(probs), table, resource).numpy()
        np.testing.assert_allclose(
            [layer["expected"][resource.value] for layer in found["layers"]], expected, rtol=1e-11
        )
    for resource in (MADDS, MS):
        total = float(expected_cost(torch.from_numpy(probs), table, resource))
        assert found["expected"][resource.value] == pytest.approx(total, rel=1e-11)


def test_beyond_ten_tasks_what_takes_groupings_is_left_out_with_the_reason() -> None:
    table, probs = mixed_table(11), random_rows(3, 3, 11)
    found = expect(table, probs)
    expected = 10 * expected_groups(torch.from_numpy(probs)).numpy()
    np.testing.assert_allclose([layer["expected"]["madds"] for layer in found["layers"]], expected, rtol=1e-10)
    assert found["expected"]["madds"] == pytest.approx(expected.sum() + 1, rel=1e-10)
    for layer in found["layers"]:
        assert layer["groupings"] is None
        assert layer["expected"]["latency_ms"] is None
        assert layer["expected"]["peak_memory_mib"] is None
    assert found["expected"]["latency_ms"] is None
    assert set(found["left_out"]) == {"groupings", "latency_ms", "peak_memory_mib"}
    assert all("11 tasks, and groupings are listed for up to 10" in reason for reason in found["left_out"].values())
    assert expected_totals(table, probs) == found["expected"]


def test_probabilities_of_another_table_are_refused() -> None:
    for ask in (expect, expected_totals):
        with pytest.raises(CostError, match=r"expected \(layers, tasks, candidates\) = \(3, 2, C\)"):
            ask(mixed_table(2), np.full((3, 3, 3), 1 / 3))


@pytest.mark.parametrize("tasks", [3, 11])
def test_views_of_an_expectation_say_what_is_left_out(tasks: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rich.console import Console

    from bmtas.plots import draw_expected
    from cli.expected import expectation_view

    found = expect(mixed_table(tasks), np.full((3, tasks, tasks), 1 / tasks))
    console = Console(width=200, file=io.StringIO())
    console.print(expectation_view(found, "toy"))
    table = console.file.getvalue()  # type: ignore[attr-defined]
    draw_expected(found, "toy", tmp_path / "expected.svg")
    texts = texts_of(tmp_path / "expected.svg")
    assert "MAdds" in table
    assert "maximum over layers" in table or tasks == 11
    assert ("t0|t1|t2" in table) == (tasks == 3)
    assert ("probability of the grouping" in texts) == (tasks == 3)
    for text in (" ".join(table.split()), "\n".join(texts)):
        assert ("Latency (table): 11 tasks, and groupings are listed" in text) == (tasks == 11)
        assert ("groupings: 11 tasks" in text) == (tasks == 11)


def layer_with(*probabilities: float, words: int = 1) -> dict[str, Any]:
    """Return the expectation of one layer whose groupings have these probabilities, and names of so many words."""
    names = ["+".join(f"task{k}" for k in range(words)) + f"|last{i}" for i in range(len(probabilities))]
    likely = [{"grouping": name, "probability": p} for name, p in zip(names, probabilities, strict=True)]
    layer = {"name": "l0", "expected": {"madds": 1e6, "latency_ms": 2.0}, "groupings": likely}
    return {"expected": {"madds": 1e6, "latency_ms": 2.0}, "left_out": {}, "layers": [layer]}


def likely_column(expectation: dict[str, Any]) -> str:
    """Return the column of groupings at 80 columns as one text, without spaces and breaks."""
    from rich.console import Console

    from cli.expected import expectation_view

    console = Console(width=80, file=io.StringIO())
    console.print(expectation_view(expectation, "toy"))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    cells = [line.strip("│").split("│")[-1] for line in text.splitlines() if line.startswith("│")]
    return "".join("".join(cells).split())


def test_groupings_are_whole_at_80_columns_with_how_many_more_are_as_likely() -> None:
    first = "+".join(f"task{k}" for k in range(14))
    found = likely_column(layer_with(0.4, 0.2, 0.1, 0.1, 0.1, 0.05, words=14))
    assert found == f"40.0%{first}|last020.0%{first}|last110.0%{first}|last2and2moreaslikely"
    assert "aslikely" not in likely_column(layer_with(0.5, 0.3, 0.1, 0.05))
    assert likely_column(layer_with(*[0.01] * 60)).endswith("andatleast57moreaslikely")
    assert likely_column(layer_with()) == "noneaslikelyas0.1%"


def test_only_what_is_certain_is_printed_as_certain() -> None:
    for probability, percent in ((1.0, "100.0%"), (0.99996, ">99.9%"), (0.9994, "99.9%")):
        assert likely_column(layer_with(probability)) == f"{percent}task0|last0"


@pytest.mark.parametrize(("rest", "shown"), [(0.0, False), (0.002, False), (0.1, True)])
def test_others_stand_in_the_legend_if_there_are_others(rest: float, shown: bool, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bmtas.plots import draw_expected

    draw_expected(layer_with(0.7, 0.3 - rest), "toy", tmp_path / "expected.svg")
    texts = texts_of(tmp_path / "expected.svg")
    assert ("others" in texts) == shown
    assert {"MAdds", "Latency (table)"} <= set(texts)
    assert "madds" not in " ".join(texts)


def test_copies_of_one_task() -> None:
    tables = tables_by_count(get_backbone("mobilenet_v2"), generic_tasks(3), (64, 64), [1, 2, 3])
    table, rows = tables[-1], cost_by_tasks(tables)
    assert [row["tasks"] for row in rows] == [1, 2, 3]
    one, _, three = ({k: row[k]["madds"] for k in ("shared", "expected", "split", "separate")} for row in rows)
    assert one["shared"] == one["expected"] == one["split"] == one["separate"]
    assert three["separate"] == 3 * one["shared"]
    assert three["shared"] < three["expected"] < three["split"] < three["separate"]
    # Uniform draws of three tasks agree, in a layer and all before, with (1/3)^l for two and (1/9)^l for three of them.
    groups = np.array([3 - 3 * (1 / 3) ** n + (1 / 9) ** n for n in range(1, len(table.layers) + 1)])
    expected = groups @ table.layer_costs(Resource.MADDS) + table.fixed_cost(Resource.MADDS)
    assert three["expected"] == pytest.approx(expected, rel=1e-12)
    # A peak has no expected sum; sharing does not make it larger, and more tasks do.
    peaks = [{k: row[k]["peak_memory_mib"] for k in ("shared", "expected", "split", "separate")} for row in rows]
    assert all(row["expected"] is None and row["shared"] <= row["split"] <= row["separate"] for row in peaks)
    assert peaks[0]["split"] < peaks[2]["split"]


def test_profile_of_a_number_of_tasks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "start.png"
    arguments = ["profile", "--tasks-count", "3", "--size", "64x64"]
    assert run_command([*arguments, "--json", "-", "--picture", str(picture)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["tasks"] for row in data["by_tasks"]] == [1, 2, 3]
    assert data["tasks"] == ["task1", "task2", "task3"]
    first, second = (layer["groupings"] for layer in data["expectation"]["layers"][:2])
    # Three tasks and three candidates, all equally probable: all together in 3 of 27 draws, all apart in 6, each pair in 6.
    chances = {entry["grouping"]: entry["probability"] for entry in first}
    together, pair, apart = 3 / 27, 6 / 27, 6 / 27
    assert chances == pytest.approx(
        {
            "task1+task2+task3": together,
            "task1+task2|task3": pair,
            "task1+task3|task2": pair,
            "task1|task2+task3": pair,
            "task1|task2|task3": apart,
        }
    )
    # A pair stays together with 1/3.
    assert second[0] == {
        "grouping": "task1|task2|task3",
        "probability": pytest.approx(apart + 3 * pair * 2 / 3 + together * apart),
    }
    by_tasks = data["by_tasks"][-1]["expected"]
    assert data["expectation"]["expected"]["madds"] == pytest.approx(by_tasks["madds"], rel=1e-12)
    groups = together + 3 * pair * 2 + apart * 3
    layer = data["layers"][0]["per_group"]["madds"]
    assert data["expectation"]["layers"][0]["expected"]["madds"] == pytest.approx(groups * layer, rel=1e-12)
    from PIL import Image

    with Image.open(picture) as drawn:
        assert min(drawn.size) > 300
    assert run_command(arguments) == 0
    shown = capsys.readouterr().out
    assert "layers.17" in shown
    assert "split" in shown
    assert re.search(r"budgets that a search for 3 tasks can meet: [\d.]+ MMAdds to [\d.]+ MMAdds, or .* MiB\n", shown)
    assert "22.2% task1+task2|task3" in shown


def test_a_picture_of_nothing_or_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["profile", "--picture", str(tmp_path / "x.png")]) == 2
    assert "--tasks-count" in capsys.readouterr().err
    assert run_command(["profile", "--tasks-count", "2", "--picture", str(tmp_path / "x.bmp")]) == 2
    assert "ends in .png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_budget_ends_with_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", "--budget", "1MAdds", "--size", "64x64", "--weights", "none", "--dry-run"]
    assert run_command([*arguments, "--runs", str(tmp_path)]) == 6
    message = " ".join(capsys.readouterr().err.split())
    assert "reachable is" in message
    assert "all layers shared" in message

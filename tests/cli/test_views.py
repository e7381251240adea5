"""What `profile` and `show` print for tables of any resources, also for those without multiply-adds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bmtas.architecture import BranchedArchitecture
from bmtas.config import RunConfig
from bmtas.files import write_json
from bmtas.runs import Run, create_run
from bmtas.tasks import Task, TaskKind
from cli.profile import _by_tasks_view, _table_view
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TASKS = (Task(name="a", kind=TaskKind.BINARY), Task(name="b", kind=TaskKind.DEPTH))
MADDS, PARAMS, MS, _, MIB = Resource


def table_of(**stated: dict[Resource, Any]) -> CostTable:
    """Return a table of two tasks and three equal layers; fixed parts cost 7."""
    field_of = {"per_group": "groups_proportional", "per_count": "group_count", "per_partition": "partition"}
    kinds = {resource: field_of[field] for field, costs in stated.items() for resource in costs}
    cost = dict.fromkeys(kinds, 7.0)
    return CostTable(
        backbone="mobilenet_v2",
        tasks=["a", "b"],
        input_size=(64, 64),
        batch=1,
        depends_on=kinds,
        layers=[LayerCost(name=f"layers.{i:02d}", **stated) for i in range(3)],
        fixed=[
            FixedCost(name="stem", shared=True, tasks=[], cost=cost),
            FixedCost(name="heads.a", shared=False, tasks=["a"], cost=cost),
        ],
        provenance={},
    )


LATENCY = {MS: [1.0, 1.75]}
WITHOUT_MADDS = table_of(per_group={PARAMS: 40.0}, per_count=LATENCY)
GROUPINGS = table_of(per_partition={MS: {"a+b": 1.0, "a|b": 3.5}}, per_count={MIB: [4.0, 8.0]})


@pytest.fixture
def make_run(tmp_path: Path, run_config: Callable[[Sequence[Task], str], RunConfig]) -> Callable[[CostTable, str], Run]:
    """Return a function (table, budget) that makes a run which has found a tree: the tasks part in the last layer."""

    def make(table: CostTable, budget: str) -> Run:
        run = create_run(tmp_path / "runs", "x", run_config(TASKS, budget), table)
        together, apart = (("a", "b"),), (("a",), ("b",))
        found = BranchedArchitecture(backbone="mobilenet_v2", tasks=("a", "b"), groupings=(together, together, apart))
        write_json(run.architecture_path, found.to_json())
        return run

    return make


def printed(view: Any) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(view)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("│") and line.strip("│ ").startswith(name))
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_show_prints_all_resources_of_a_table_without_multiply_adds(
    make_run: Callable[[CostTable, str], Run], bmtas: Callable[..., Any]
) -> None:
    run = make_run(WITHOUT_MADDS, "18ms")
    result = bmtas("show", "--runs", run.path.parent)
    assert result.code == 0, result.err
    # Layers 1 + 1 + 1.75, stem and head 7 each; separate networks have a second stem and 1.75 in all layers.
    assert "found 17.8 ms; all shared 17.0 ms, separate networks 26.2 ms" in result.out
    # Four copies of a layer at 40, two fixed parts; the tree has a figure for what each group has of its own.
    assert "found 174 Params; all shared 134 Params, separate networks 261 Params" in result.out
    assert "layers 0-1  a + b  80.0 Params" in result.out
    assert "layer 2  b  40.0 Params" in result.out
    assert "26.2 ms (table)" in result.out  # believed, unlike what is counted or measured here
    assert "261 Params (own" not in result.out
    assert row(result.out, "found") == ["174 Params", "17.8 ms", "-", "-", "-", "-"]
    assert "MAdds" not in result.out


def test_show_prints_a_tree_without_figures_where_no_group_has_a_cost_of_its_own(
    make_run: Callable[[CostTable, str], Run], bmtas: Callable[..., Any]
) -> None:
    run = make_run(GROUPINGS, "20ms")
    result = bmtas("show", "--runs", run.path.parent)
    assert result.code == 0, result.err
    assert "found 19.5 ms; all shared 17.0 ms" in result.out  # 1 + 1 + 3.5 and twice 7
    assert "found 8.00 MiB; all shared 7.00 MiB, separate networks 8.00 MiB" in result.out
    tree = result.out[: result.out.index("budget")]
    assert "layers 0-1  a + b\n" in "\n".join(line.rstrip() for line in tree.splitlines()) + "\n"
    assert json.loads(bmtas("show", "--json", "-", "--runs", run.path.parent).out)["networks"]["found"]["costs"] == {
        "latency_ms": 19.5,
        "peak_memory_mib": 8.0,
    }


def test_profile_shows_each_resource_with_one_and_with_all_groups() -> None:
    text = printed(_table_view(WITHOUT_MADDS))
    assert row(text, "stem") == ["7.00 Params", "14.0 Params", "7.00 ms", "14.0 ms"]
    assert row(text, "layers.01") == ["40.0 Params", "80.0 Params", "1.00 ms", "1.75 ms"]
    assert row(text, "heads.a") == ["7.00 Params", "7.00 Params", "7.00 ms", "7.00 ms"]
    assert row(text, "all shared") == ["134 Params", "", "17.0 ms", ""]
    assert row(text, "separate networks") == ["", "261 Params", "", "26.2 ms"]
    text = printed(_table_view(GROUPINGS))
    assert row(text, "stem") == ["7.00 ms", "14.0 ms", "7.00 MiB", "7.00 MiB"]  # two stems, but not at once
    assert row(text, "layers.01") == ["1.00 ms", "3.50 ms", "4.00 MiB", "8.00 MiB"]
    assert row(text, "all shared") == ["17.0 ms", "", "7.00 MiB", ""]
    assert "not their sum" in " ".join(text.split())


def test_profile_of_one_task_has_one_column_a_resource() -> None:
    text = printed(_table_view(WITHOUT_MADDS.subset(["a"])))
    assert row(text, "layers.01") == ["40.0 Params", "1.00 ms"]
    assert row(text, "all shared") == row(text, "separate networks") == ["134 Params", "17.0 ms"]


def test_totals_by_tasks_of_any_resources() -> None:
    rows = [
        {
            "tasks": tasks,
            "shared": {"latency_ms": 1.0, "peak_memory_mib": 4.0},
            "expected": {"latency_ms": None, "peak_memory_mib": None},
            "split": {"latency_ms": 2.0, "peak_memory_mib": 8.0},
            "separate": {"latency_ms": 3.0, "peak_memory_mib": 9.0},
        }
        for tasks in (1, 2)
    ]
    text = printed(_by_tasks_view(GROUPINGS, rows))
    assert row(text, "Latency (table)") == ["1", "1.00 ms", "-", "2.00 ms", "3.00 ms"]
    assert row(text, "Peak memory") == ["1", "4.00 MiB", "-", "8.00 MiB", "9.00 MiB"]
    assert row(text, "2") == ["2", "1.00 ms", "-", "2.00 ms", "3.00 ms"]  # no label again
    assert "split: only the stem" in " ".join(text.split())


def test_profile_prints_memory_beside_the_counts(bmtas: Callable[..., Any]) -> None:
    result = bmtas("profile", "--tasks", "nyud-v2", "--size", "64x64")
    assert result.code == 0
    assert "Peak memory" in result.out
    cells = row(result.out, "layers.01")
    assert len(cells) == 6
    assert [cell.split()[1] for cell in cells[4:]] == ["MiB", "MiB"]
    assert "MParams, or" in result.out.splitlines()[-1]
    assert result.out.splitlines()[-1].endswith("MiB")


def test_profile_takes_a_choice_of_the_data_s_tasks(bmtas: Callable[..., Any], new_data: Any, tmp_path: Path) -> None:
    data = new_data(tmp_path)
    table = tmp_path / "table.json"
    given = ("--data", data, "--tasks", "depth, semseg", "--size", "64x64")
    assert bmtas("profile", *given, "--json", table).code == 0
    assert json.loads(table.read_text(encoding="utf-8"))["tasks"] == ["depth", "semseg"]
    result = bmtas("search", *given, "--table", table, "--dry-run", "--runs", tmp_path / "runs")
    assert result.code == 0, result.err
    result = bmtas("profile", "--data", data, "--tasks", "depht")
    assert result.code == 2
    assert "unknown task 'depht'; did you mean 'depth'?" in result.err
    chosen = json.loads(bmtas("profile", "--data", "nyud-v2", "--tasks", "edge", "--size", "64x64", "--json", "-").out)
    assert chosen["tasks"] == ["edge"]
    result = bmtas("profile", "--tasks", "semseg,edge")
    assert result.code == 2
    assert "name it by --data" in result.err


def test_help_says_that_pictures_are_written(bmtas: Callable[..., Any]) -> None:
    text = " ".join(bmtas("show", "--help").out.replace("│", " ").split())
    assert "two pictures into the run folder: search/budget.png and search/expected.png" in text

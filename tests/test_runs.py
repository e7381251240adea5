"""The run folder: numbers, names, and which run a command takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bmtas.config import RunConfig
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.runs import all_runs, create_run, open_run
from bmtas.tasks import Task, TaskKind
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TABLE = CostTable(
    backbone="mobilenet_v2",
    tasks=["depth"],
    input_size=(64, 64),
    batch=1,
    layers=[LayerCost(name="layers.00", per_group={Resource.MADDS: 10})],
    fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 1})],
    provenance={},
)


@pytest.fixture
def config(run_config: Callable[[Sequence[Task], str], RunConfig]) -> RunConfig:
    return run_config([Task(name="depth", kind=TaskKind.DEPTH)], "1GMAdds")


def test_runs_are_numbered_on_from_the_highest(tmp_path: Path, config: RunConfig) -> None:
    root = tmp_path / "some" / "runs"
    assert create_run(root, "scenes-9GMAdds", config, TABLE).name == "001-scenes-9GMAdds"
    assert create_run(root, "own data/ü-4.5MParams", config, TABLE).name == "002-own-data-4.5MParams"
    (root / "002-own-data-4.5MParams").rename(root / "041-kept")
    (root / "notes").mkdir()
    assert create_run(root, "x", config, TABLE).name == "042-x"


def test_the_latest_run_is_the_one_with_the_highest_number(tmp_path: Path, config: RunConfig) -> None:
    assert all_runs(tmp_path / "absent") == []
    assert all_runs(tmp_path) == []
    for name in ("999-old", "1000-new"):  # as text, 999 is above 1000
        create_run(tmp_path, "x", config, TABLE).path.rename(tmp_path / name)
    (tmp_path / "1001-empty").mkdir()
    (tmp_path / "zzz").mkdir()
    assert open_run(tmp_path, None).name == "1000-new"


def test_a_run_is_opened_by_name_or_path(tmp_path: Path, config: RunConfig) -> None:
    first = create_run(tmp_path, "a", config, TABLE)
    create_run(tmp_path, "b", config, TABLE)
    assert open_run(tmp_path, "001-a").path == first.path
    assert open_run(Path("elsewhere"), str(first.path)).path == first.path
    with pytest.raises(UsageError, match=r"'003-c' under .* there is 001-a, 002-b"):
        open_run(tmp_path, "003-c")


def test_a_run_is_opened_by_its_number_where_that_is_clear(tmp_path: Path, config: RunConfig) -> None:
    for label in ("a", "b"):
        create_run(tmp_path, label, config, TABLE)
    assert open_run(tmp_path, "2").name == open_run(tmp_path, "002").name == "002-b"
    (tmp_path / "001-a").rename(tmp_path / "002-a")
    with pytest.raises(UsageError, match="no run called '2'"):
        open_run(tmp_path, "2")


def test_runs_that_are_made_at_the_same_time_get_different_folders(tmp_path: Path, config: RunConfig) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_run(tmp_path, "x", config, TABLE).name, range(8)))
    assert len(set(made)) == 8


def test_a_configuration_comes_back_as_it_was_written(tmp_path: Path, config: RunConfig) -> None:
    run = create_run(tmp_path, "a", config, TABLE)
    assert run.config() == config
    stored = json.loads((run.path / "run.json").read_text())
    assert (stored["schema_version"], stored["deploy_size"], stored["budgets"]) == (1, [64, 64], ["1GMAdds"])


def test_a_configuration_of_before_there_were_tables_of_ones_own_is_read(tmp_path: Path, config: RunConfig) -> None:
    run = create_run(tmp_path, "a", config, TABLE)
    stored = json.loads((run.path / "run.json").read_text())
    assert stored.pop("table_digest") is None
    (run.path / "run.json").write_text(json.dumps(stored))
    assert run.config() == config
    assert run.config() != config.model_copy(update={"table_digest": "0" * 64})


def test_a_configuration_that_is_none_is_told(tmp_path: Path, config: RunConfig) -> None:
    run = create_run(tmp_path, "a", config, TABLE)
    path = run.path / "run.json"
    path.write_text('{"schema_version": 1, "backbone": "mobilenet_v2"}')
    with pytest.raises(UsageError, match=r"run\.json is not a run's configuration"):
        run.config()
    stored = json.loads(config.model_dump_json()) | {"budgets": ["9 bananas"]}
    path.write_text(json.dumps(stored))
    with pytest.raises(UsageError, match=r"run\.json is not a run's configuration: budgets\.0: .*'9 bananas'"):
        run.config()
    path.write_text('{"backbone": "mobilenet_v2"}')
    with pytest.raises(UsageError, match="carries no schema_version"):
        run.config()
    path.write_text('{"schema_version": 7}')
    with pytest.raises(UsageError, match=r"schema 7.*up to 1.*upgrade"):
        run.config()


def test_a_place_where_no_folder_can_be_made_is_a_matter_of_the_machine(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot create a run folder") as caught:
        create_run(tmp_path / "file" / "runs", "a", config, TABLE)
    assert caught.value.exit_code == 3


def test_what_is_not_complete_is_no_run(tmp_path: Path, config: RunConfig) -> None:
    """As killed while the folder was being made: hidden, without a number, and in nobody's way."""
    (tmp_path / ".new-abc").mkdir()
    (tmp_path / ".new-abc" / "table.json").write_text("{}")
    assert all_runs(tmp_path) == []
    assert create_run(tmp_path, "a", config, TABLE).name == "001-a"


def test_a_search_that_ended_over_its_budget_is_told_apart_from_one_that_has_not_ended(
    tmp_path: Path, config: RunConfig
) -> None:
    run = create_run(tmp_path, "x", config, TABLE)
    with pytest.raises(UsageError, match="the search has not ended"):
        run.architecture("found")
    run.search_folder.mkdir()
    (run.search_folder / "trials.json").write_text('{"schema_version": 1, "trials": []}')
    with pytest.raises(UsageError, match=r"the search has ended, but no network .* `bmtas decode --budget`"):
        run.architecture("found")

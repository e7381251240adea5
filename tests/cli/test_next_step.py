"""What commands say beside their results: what comes next, why a tree is cheap, why there is no Delta_m."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import BranchedArchitecture
from bmtas.config import Decode, RunConfig
from bmtas.files import write_json
from bmtas.runs import SHARED, Run, create_run
from bmtas.tasks import Task, TaskKind
from cli.next_step import Following, after_export, after_training, say_next
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TASKS = (Task(name="a", kind=TaskKind.BINARY), Task(name="b", kind=TaskKind.DEPTH))
PLANTED = ("search", "--data", "planted", "--backbone", "tiny", "--size", "64x64", "--budget", "19MMAdds")


def written(line: str, text: str) -> str:
    (found,) = [entry for entry in text.splitlines() if entry.startswith(line)]
    return found


@pytest.fixture
def make_run(tmp_path: Path, run_config: Callable[[Sequence[Task], str], RunConfig]) -> Callable[..., Run]:
    """Return a function that makes a run of three layers, 10 MAdds a group, and fixed parts of 1: all shared costs 31."""

    def make(budget: str, *, parted: bool = False, chance: float | None = None, decode: Decode = Decode.BEST) -> Run:
        config = run_config(TASKS, budget).model_copy(update={"decode": decode})
        table = CostTable(
            backbone="mobilenet_v2",
            tasks=["a", "b"],
            input_size=(64, 64),
            batch=1,
            layers=[LayerCost(name=f"layers.{i:02d}", per_group={Resource.MADDS: 10.0}) for i in range(3)],
            fixed=[FixedCost(name="stem", shared=True, tasks=["a", "b"], cost={Resource.MADDS: 1.0})],
            provenance={},
        )
        run = create_run(tmp_path / "runs", "x", config, table)
        together, apart = (("a", "b"),), (("a",), ("b",))
        groupings = (together, together, apart if parted else together)
        found = BranchedArchitecture(backbone="mobilenet_v2", tasks=("a", "b"), groupings=groupings)
        write_json(run.architecture_path, found.to_json())
        if chance is not None:  # task a takes its own candidate always; b that of a with this chance
            rows = [[[1.0, 0.0], [chance, 1 - chance]]] * 3
            write_json(run.search_folder / "probabilities.json", {"schema_version": 1, "probabilities": rows})
        return run

    return make


def test_a_tree_that_leaves_much_of_the_budget_is_explained(make_run: Callable[..., Run], bmtas: Any) -> None:
    run = make_run("62MAdds", chance=0.6)
    said = bmtas("show", "--runs", run.path.parent).out
    assert "this is the all-shared network" in said
    # 31 of 62; what has parted stays so, so layer l has 2 - 0.6^(l+1) groups expected: 1 + 10 (1.4 + 1.64 + 1.784)
    assert "50% of the budget is unused: the search ended with an expected cost of 49.2 MAdds" in said
    assert f"`bmtas sweep --decode {run.path}` lists the most probable tree of each budget" in said
    bare = bmtas("show", "--runs", make_run("62MAdds", parted=True).path.parent).out
    assert (
        "34% of the budget is unused; handed over is the most probable tree" in bare
    )  # 41 of 62, and no probabilities at hand
    assert "all-shared network" not in bare


@pytest.mark.parametrize(
    ("budget", "decode"), [("45MAdds", Decode.BEST), ("62MAdds", Decode.ARGMAX)], ids=["tenth", "argmax"]
)
def test_a_tree_near_its_budget_or_of_another_rule_is_not(
    make_run: Callable[..., Run], bmtas: Any, budget: str, decode: Decode
) -> None:
    run = make_run(budget, parted=True, chance=0.6, decode=decode)  # 41 of 45: 9 %
    assert "unused" not in bmtas("show", "--runs", run.path.parent).out


def test_the_decoding_that_is_named_exists(make_run: Callable[..., Run], bmtas: Any) -> None:
    run = make_run("62MAdds", chance=0.6)
    result = bmtas("sweep", "--decode", run.path, "--points", "2", "--json", "-")
    assert result.code == 0, result.err
    assert json.loads(result.out)


def test_show_says_why_there_is_no_delta_m(make_run: Callable[..., Run], bmtas: Any) -> None:
    run = make_run("62MAdds")
    for name, value in (("shared", 0.5), ("found", 0.5), ("separate", 0.0)):
        tasks = {
            task.name: {"metric": task.metric, "value": value if task.name == "a" else 2.0, "best_constant": 0.1}
            for task in TASKS
        }
        told = {"schema_version": 1, "split": "val", "size": [64, 64], "images": 8, "tasks": tasks}
        write_json(run.network(name) / "metrics.json", told)
    said = bmtas("show", "--runs", run.path.parent).out
    assert "Delta_m is undefined: the separate networks have 0 in a" in said
    assert "not measured yet" in said  # the latency
    timing = {
        "runtime": "onnxruntime 1.20",
        "provider": "CPU",
        "samples": 9,
        "median_ms": 3.0,
        "p90_ms": 4.0,
        "spread": 0.2,
    }
    results = [{"network": name, **timing} for name in ("shared", "found", "separate")]
    write_json(run.path / "bench.json", {"schema_version": 1, "results": results})
    assert "not measured yet" not in bmtas("show", "--runs", run.path.parent).out


def test_the_next_command_names_the_run_where_it_is_not_the_latest(
    make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_run("62MAdds"), make_run("62MAdds")
    monkeypatch.chdir(first.path.parent.parent)
    usual, report = Path("runs"), Following("report", run_is_argument=True)
    for following, run, asked, runs, expected in (
        (Following("train"), Run(usual / second.name), None, usual, "next: bmtas train"),
        (Following("train"), Run(usual / first.name), None, usual, f"next: bmtas train --run {first.name}"),
        (report, Run(usual / first.name), "001", usual, "next: bmtas report 001"),
        (report, second, None, first.path.parent, f"next: bmtas report --runs {first.path.parent}"),
    ):
        say_next(following, run, asked, runs, silent=False)
        assert capsys.readouterr().err == expected + "\n"
    say_next(report, second, None, usual, silent=True)
    assert capsys.readouterr().err == ""


def test_what_follows_depends_on_what_was_made(make_run: Callable[..., Run]) -> None:
    run = make_run("62MAdds")
    assert after_training(run, ["found"]) == Following("export")
    assert after_training(run, ["shared", "separate"]).arguments == ("--network", "shared,separate")
    assert after_training(run, ["shared", "found", "separate"]).arguments == ("--network", "all")
    onnx = run.network(SHARED) / "model.onnx"
    onnx.parent.mkdir(parents=True)
    onnx.write_bytes(b"")
    assert after_export(run, []) is None
    assert after_export(run, [onnx]) == Following("bench")
    other = onnx.with_name("model.openvino")
    assert after_export(run, [other]) == Following("bench", (str(other),), of_run=False)


def test_each_command_says_the_next(tiny_run: Any) -> None:
    root, said = tiny_run.root, {name: result.err for name, result in tiny_run.results.items()}
    pictures = tiny_run.path / "networks/found/predictions.png"
    assert pictures.exists()
    assert written("next", said["train"]) == f"next: bmtas export --network all --runs {root}; predictions: {pictures}"
    assert written("next", said["export"]) == f"next: bmtas bench --runs {root}"
    assert written("next", said["bench"]) == f"next: bmtas report --runs {root}"
    assert "next:" not in said["search"]  # with --json -
    assert "next:" not in said["evaluate"]


def test_a_search_says_that_training_is_next_and_keeps_quiet_when_asked_to(bmtas: Any, tmp_path: Path) -> None:
    short = (*PLANTED, "--warmup-steps", "1", "--search-steps", "1", "--batch-size", "2", "--runs", tmp_path)
    result = bmtas(*short)
    assert result.code == 0, result.err
    assert written("next", result.err) == f"next: bmtas train --runs {tmp_path}"
    assert bmtas(*short, "--new", "--quiet").err == ""


def test_train_says_where_the_number_of_steps_belongs(
    bmtas: Any, make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bmtas("train", "--train-steps", "30")
    assert result.code == 2
    assert "--train-steps belongs to `bmtas search`: how long to train is part of a run" in result.err
    assert "train-steps" not in bmtas("train", "--help").out
    make_run("62MAdds")
    monkeypatch.chdir(tmp_path)  # as a setting for all commands it is that of search, and no trouble to train
    (tmp_path / "bmtas.toml").write_text("train_steps = 30\n")
    told = bmtas("train", "--dry-run")
    assert (told.code, told.err) == (0, "")

"""The list of jobs, and which options go to which method."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmtas.config import Method
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.method_options import means_nothing
from bmtas.planning import Request, plan_search
from bmtas.sweep.ledger import Sweep, create_sweep, find_sweep
from bmtas.sweep.plan import left_out, read_budgets, read_methods, search_arguments, takes_budgets
from bmtas.sweep.preflight import check_start

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MakeSweep = Callable[..., Sweep]


def test_the_job_list_by_hand(make_sweep: MakeSweep) -> None:
    methods = read_methods(["branched", "fafs", "mtan"], train=True)
    sweep = make_sweep(budgets=("7GMAdds", "9GMAdds"), seeds=(0, 3), methods=methods)
    assert [job.name for job in sweep.jobs] == [
        "001-single-seed0",
        "002-mtan-seed0",
        "003-branched-7GMAdds-seed0",
        "004-fafs-7GMAdds-seed0",
        "005-branched-9GMAdds-seed0",
        "006-fafs-9GMAdds-seed0",
        "007-single-seed3",
        "008-mtan-seed3",
        "009-branched-7GMAdds-seed3",
        "010-fafs-7GMAdds-seed3",
        "011-branched-9GMAdds-seed3",
        "012-fafs-9GMAdds-seed3",
    ]


def test_no_separate_networks_where_nothing_is_trained() -> None:
    assert read_methods(["fafs"], train=False) == [Method.FAFS]
    assert read_methods(["fafs", "single"], train=True) == [Method.FAFS, Method.SINGLE]


def test_a_job_may_have_budgets_for_several_resources(make_sweep: MakeSweep) -> None:
    budgets = read_budgets(["9GMAdds", "9GMAdds, 64MiB"])
    assert budgets == [["9GMAdds"], ["9GMAdds", "64MiB"]]
    sweep = make_sweep()
    first, second = dataclasses.replace(sweep, spec=sweep.spec.model_copy(update={"budgets": budgets})).jobs
    assert (first.budgets, second.budgets) == (("9GMAdds",), ("9GMAdds", "64MiB"))
    assert second.name == "002-branched-9GMAdds-64MiB-seed0"
    given = search_arguments(sweep.spec, second, "R")
    assert given[3:7] == ["--budget", "9GMAdds", "--budget", "64MiB"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: read_budgets(["9GFLOPs"]), "MAdds are meant"),
        (lambda: read_budgets(["9GMAdds,8GMAdds"]), "named twice"),
        (lambda: read_budgets(["9GMAdds", "9GMAdds"]), "given twice"),
        (lambda: read_budgets(["9GMAdds", "9000 MMAdds"]), r"9000MMAdds \(9GMAdds is the same\) is given twice"),
        (lambda: read_budgets(["7 9GMAdds"]), "budget '7 9GMAdds'"),
        (lambda: read_budgets(["9GMAdds,64MiB", "65536KiB,9GMAdds"]), "given twice"),
        (lambda: read_methods(["fasf"], train=True), "did you mean 'fafs'"),
        (lambda: read_methods(["permuted"], train=True), "bmtas search --from"),
        (lambda: read_methods(["bmn", "bmn"], train=True), "given twice"),
    ],
)
def test_what_cannot_be_asked_for(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()


OVERRIDES: dict[str, dict[str, Any]] = {
    "--warmup-steps": {"search_overrides": {"warmup_steps": 2}},
    "--search-steps": {"search_overrides": {"weight_steps": 3}},
    "--search-learning-rate": {"search_overrides": {"learning_rate": 0.01}},
    "--resource-weight": {"search_overrides": {"resource_term": "weight", "resource_weight": 0.05}},
    "--no-resource-term": {"search_overrides": {"resource_term": "none"}},
    "--search-size": {"search_size": (32, 32)},
    "--no-resizing": {"no_resizing": True},
    "--estimator": {"search_overrides": {"estimator": "sampled"}},
    "--activation-checkpointing": {"search_overrides": {"activation_checkpointing": True}},
    "--cost-estimate": {"search_overrides": {"cost_estimate": "exact"}},
    "--batch-size": {"search_overrides": {"batch_size": 2}, "train_overrides": {"batch_size": 2}},
    "--precision": {"search_overrides": {"precision": "fp32"}},
    "--train-steps": {"train_overrides": {"steps": 2}},
    "--set": {"own": {"x": "1"}},  # unknown to those that have settings of their own
}


@pytest.mark.parametrize(
    "method",
    [Method.BRANCHED, pytest.param(Method.AUTOMTL, marks=pytest.mark.slow), Method.FAFS, Method.SINGLE, Method.MTAN],
)
def test_an_option_is_left_out_exactly_where_planning_refuses_it(method: Method) -> None:
    for option, changes in OVERRIDES.items():
        refused = ""
        try:
            plan_search(Request(data="planted", backbone="tiny", method=method, **changes))
        except UsageError as error:
            refused = str(error)
        words = "has no settings of its own" if option == "--set" else "means nothing to --method"
        assert (words in refused) == means_nothing(method, option), (option, refused)


def test_options_reach_the_methods_that_take_them(make_sweep: MakeSweep) -> None:
    options = [["--data", "planted"], ["--search-steps", "3"], ["--no-resizing"]]
    sweep = make_sweep(methods=[Method.FAFS, Method.BRANCHED], options=options)
    fafs, branched = (search_arguments(sweep.spec, job, "R") for job in sweep.jobs)
    head = ["--budget", "4MMAdds", "--seed", "0"]
    assert fafs == ["search", "--method", "fafs", *head, "--data", "planted", "--runs", "R"]
    rest = ["--data", "planted", "--search-steps", "3", "--no-resizing", "--runs", "R"]
    assert branched == ["search", "--method", "branched", *head, *rest]
    assert left_out(sweep.spec) == ["--search-steps, --no-resizing: not given to fafs, which would refuse it"]


def test_methods_without_budgets_are_those_whose_cost_no_budget_changes() -> None:
    """Counted: what planning says that the network costs is the same under two budgets, or no budget is taken at all."""
    fixed = {m.value for m in Method if not takes_budgets(m)}
    assert fixed == {"single", "shared", "cross-stitch", "nddr-cnn", "mtan", "sluice"}


def test_the_same_command_finds_its_sweep_and_another_does_not(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep()
    root, spec = tmp_path / "sweeps", sweep.spec
    found = find_sweep(root, spec.model_copy(update={"threads": 4, "written_by": "1"}), None, threads=False)
    assert found == sweep  # with the threads that it was begun with
    for changes in ({"seeds": [1]}, {"options": [["--data", "planted"]]}, {"train": True}):
        assert find_sweep(root, spec.model_copy(update=changes), None, threads=False) is None
    assert find_sweep(root, spec.model_copy(update={"threads": 4}), None, threads=True) is None


def test_a_name_stands_for_one_specification(make_sweep: MakeSweep, tmp_path: Path) -> None:
    spec = make_sweep().spec
    root = tmp_path / "sweeps"
    create_sweep(root, spec, "any", "mine")
    assert find_sweep(root, spec, "mine", threads=False) is not None
    with pytest.raises(UsageError, match=r"seeds \(\[0\] there, \[1\] now\)"):
        find_sweep(root, spec.model_copy(update={"seeds": [1]}), "mine", threads=False)
    with pytest.raises(UsageError, match="without slashes"):
        create_sweep(root, spec, "any", "a/b")


def test_a_name_that_something_else_has_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    spec, root = make_sweep().spec, tmp_path / "sweeps"
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").touch()
    with pytest.raises(UsageError, match="is no sweep; give another --name"):
        create_sweep(root, spec, "any", "notes")
    with pytest.raises(UsageError, match="one or more characters"):
        create_sweep(root, spec, "any", "")
    (root / "empty").mkdir()
    assert create_sweep(root, spec, "any", "empty").path == root / "empty"


def test_the_settings_of_its_commands_are_toml_whatever_plugins_are_called(make_sweep: MakeSweep) -> None:
    plugins = ["/a/\U0001d11e.py", '/b/"\\\x7f\n.py']
    text = make_sweep(plugins=plugins).settings.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {"plugins": plugins}


def test_numbers_of_sweeps_rise(make_sweep: MakeSweep) -> None:
    names = [make_sweep().path.name for _ in range(2)]
    assert names == ["001-stand-in", "002-stand-in"]
    assert all(a < b for a, b in itertools.pairwise(names))


def test_a_process_that_cannot_be_started_is_told_with_its_cause(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_sweep(folder=str(tmp_path / "gone")).spec
    with pytest.raises(EnvironmentProblem, match=r"gone: .*No such file.*start the sweep in a folder that is there"):
        check_start(spec, "")
    (tmp_path / "python").write_text("not to be executed", encoding="utf-8")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(EnvironmentProblem, match=r"Permission denied: .*/python'; .*by this interpreter"):
        check_start(spec.model_copy(update={"folder": str(tmp_path)}), "")

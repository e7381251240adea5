"""Settings from bmtas.toml: what goes before what, and what is refused. And the habits of a command line: colour, verbosity, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLANTED = 'data = "planted"\nbackbone = "tiny"\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BMTAS_RUNS", raising=False)


def write(text: str, name: str = "bmtas.toml") -> None:
    Path(name).write_text(text, encoding="utf-8")


def planned(bmtas: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    result = bmtas("search", "--dry-run", "--json", "-", *arguments)
    assert result.code == 0, result.err
    content: dict[str, Any] = json.loads(result.out)
    return content


def test_what_is_typed_goes_before_the_file_and_the_file_before_the_default(bmtas: Callable[..., Any]) -> None:
    before = planned(bmtas, "--data", "planted", "--backbone", "tiny")
    write(f'seed = 3\n[search]\n{PLANTED}budget = ["4MMAdds", "60kParams"]\nsearch-steps = 7\nbatch_size = 6\n')
    asked = planned(bmtas)
    assert (before["seed"], asked["seed"]) == (0, 3)
    assert asked["budgets"] == ["4MMAdds", "60kParams"]
    assert (asked["search"]["weight_steps"], asked["search"]["batch_size"]) == (7, 6)
    assert asked["train"]["steps"] == before["train"]["steps"]
    typed = planned(bmtas, "--seed", 5, "--budget", "4.5MMAdds")
    assert (typed["seed"], typed["budgets"]) == (5, ["4.5MMAdds"])


def test_the_environment_goes_before_the_file(bmtas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    write('runs = "of_the_file"\n')
    assert "of_the_file" in bmtas("show").err
    monkeypatch.setenv("BMTAS_RUNS", "of_the_environment")
    assert "of_the_environment" in bmtas("show").err
    assert "typed" in bmtas("show", "--runs", "typed").err


def test_another_file_can_be_named(bmtas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    write('runs = "of_this_folder"\n')
    write('runs = "of_another"\n', "other.toml")
    assert "of_another" in bmtas("--config", "other.toml", "show").err
    monkeypatch.setenv("BMTAS_CONFIG", "other.toml")
    assert "of_another" in bmtas("show").err
    assert bmtas("--config", "absent.toml", "show").code == 2


def test_the_unnamed_command_of_a_group_has_the_group_s_table(bmtas: Callable[..., Any]) -> None:
    write('[bench]\nruns = "of_bench"\nsamples = 7\n[data.check]\nquiet = true\n')
    assert "of_bench" in bmtas("bench").err
    assert "of_bench" not in bmtas("show").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search]\nbudget = [", "is no TOML"),
        ("[serch]\nseed = 1", "[serch]: there is no such command; did you mean 'search'?"),
        ("[search]\nsedd = 1", "[search] sedd: unknown option; did you mean 'seed'?"),
        ("[bench]\nsampels = 1", "[bench] sampels: unknown option; did you mean 'samples'?"),
        ("[bench.compre]\na = 1", "[bench] compre: unknown option"),
        ("rums = 'x'", "no command has the option --rums; did you mean 'runs'?"),
        ("[search]\nseed = 'x'", "[search] seed = 'x'"),
        ("[search]\nseed = [1, 2]", "the option is given once"),
        ("[search]\nquiet = 1", "expected true or false"),
        ("[search]\nseed = true", "not true or false"),
        ("show = 1", "show is a command; its options stand in a table [show]"),
        ("plugins = 'a.py'", "expected a list of Python files"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(text: str, message: str, bmtas: Callable[..., Any]) -> None:
    write(text)
    result = bmtas("show")
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert "bmtas.toml" in result.err


def test_verbose_says_which_settings_hold_and_where_an_error_comes_from(bmtas: Callable[..., Any]) -> None:
    write('runs = "of_the_file"\n')
    told = bmtas("--verbose", "show").err
    assert "settings: bmtas.toml" in told
    assert "Traceback" in told
    assert "open_run" in told
    assert "Traceback" not in bmtas("show").err


def terminal(*arguments: str, **environment: str) -> str:
    """Return what a command of its own process writes, as to a terminal."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    command = [str(Path(sys.executable).with_name("bmtas")), *arguments]
    made = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**kept, "TERM": "xterm-256color", **environment}
    )
    return made.stdout + made.stderr


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    assert "\x1b[" in terminal("show", FORCE_COLOR="1")
    for command in (("show",), ("--help",)):
        assert "\x1b[3" not in terminal(*command, FORCE_COLOR="1", NO_COLOR="1")
        assert "\x1b[" not in terminal(*command)  # no terminal at all


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("bmtas sear", "search"),
        ("bmtas search --method dyn", "dynamic"),
        ("bmtas search --preset st", "standard"),
        ("bmtas search --backbone mobile", "mobilenet_v2"),
        ("bmtas train --network sep", "separate"),
        ("bmtas search --data sce", "scenes"),
        ("bmtas data check plan", "planted"),
    ],
)
def test_the_shell_completes_commands_and_values(typed: str, expected: str) -> None:
    words = typed.split()
    told = terminal(_BMTAS_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert told.split() == [expected]


def test_the_shell_completes_the_names_of_runs() -> None:
    for name in ("001-scenes-9GMAdds", "002-scenes-8GMAdds"):
        (Path("runs") / name).mkdir(parents=True)
        (Path("runs") / name / "run.json").write_text("{}", encoding="utf-8")
    told = terminal(_BMTAS_COMPLETE="complete_bash", COMP_WORDS="bmtas show --run 00", COMP_CWORD="3")
    assert told.split() == ["002-scenes-8GMAdds", "001-scenes-9GMAdds"]


def test_completion_looks_where_the_runs_are() -> None:
    for folder in ("exp", "other"):
        (Path(folder) / f"001-{folder}").mkdir(parents=True)
        (Path(folder) / f"001-{folder}" / "run.json").write_text("{}", encoding="utf-8")
    write('runs = "exp"\n')
    told = terminal(_BMTAS_COMPLETE="complete_bash", COMP_WORDS="bmtas show --run 0", COMP_CWORD="3")
    assert told.split() == ["001-exp"]
    words = "bmtas show --runs other --run 0"
    assert terminal(_BMTAS_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="5").split() == ["001-other"]


def test_paths_are_left_to_the_shell() -> None:
    Path("scans").mkdir()
    assert terminal(_BMTAS_COMPLETE="complete_bash", COMP_WORDS="bmtas search --data sca", COMP_CWORD="3").split() == []


SETTINGS = """
[search]
budget = "4MMAdds"
search-steps = 7
warmup-steps = 2
decode = "argmax"
no-resource-term = true
search-size = "32x32"
set = ["entropy_weight=0"]
"""


def test_settings_for_searches_are_left_out_where_a_method_has_no_use_for_them(bmtas: Callable[..., Any]) -> None:
    write(SETTINGS.replace("[search]", f"[search]\n{PLANTED}"))
    result = bmtas("search", "--dry-run", "--json", "plan.json", "--method", "single")
    assert result.code == 0, result.err
    assert json.loads(Path("plan.json").read_text("utf-8"))["budgets"] == []
    left = "--warmup-steps, --search-steps, --resource-weight or --no-resource-term, --decode, --search-size, --set, --budget"
    assert f"mean nothing to --method single: {left}" in " ".join(result.err.split())
    plan = json.loads(Path("plan.json").read_text("utf-8"))
    assert (plan["method"], plan["decode"], plan["search"]["resource_term"]) == ("single", "best", "budget")
    typed = bmtas("search", "--dry-run", "--method", "single", "--search-steps", 3)
    assert typed.code == 2
    assert "error: --search-steps: means nothing to --method single" in " ".join(typed.err.split())


def test_of_options_that_contradict_each_other_the_typed_one_holds(bmtas: Callable[..., Any]) -> None:
    scenes = 'data = "scenes"\nsize = "64x64"\ntasks = "semseg,depth"\nbackbone = "tiny"\n'
    write(f"[search]\n{scenes}no-resource-term = true\nsearch-size = '32x32'\n")
    plan = planned(bmtas, "--resource-weight", 2, "--no-resizing")
    assert (plan["search"]["resource_term"], plan["search"]["resource_weight"]) == ("weight", 2.0)
    assert plan["search_size"] == plan["deploy_size"] == [64, 64]
    write(f"[search]\n{scenes}resource-weight = 2\nno-resizing = true\n")
    plan = planned(bmtas, "--no-resource-term", "--search-size", "32x32")
    assert (plan["search"]["resource_term"], plan["search_size"]) == ("none", [32, 32])
    alone = bmtas("search", "--dry-run", "--method", "single", "--no-resource-term", "--search-size", "32x32")
    assert alone.code == 2  # what was typed is not left out because the file has its contrary
    assert "--no-resource-term" in alone.err.split("means nothing to")[0]
    swept = bmtas("sweep", "--dry-run", "--json", "-", "--budget", "9MMAdds", "--no-resource-term")
    assert swept.code == 0, swept.err
    assert [option[0] for option in json.loads(swept.out)["options"]].count("--resource-weight") == 0
    both = bmtas("search", "--dry-run", "--no-resource-term", "--resource-weight", 2)
    assert (both.code, "contradict each other" in both.err) == (2, True)


def test_what_stands_at_the_top_need_not_fit_commands_that_are_not_run(bmtas: Callable[..., Any]) -> None:
    write("samples = 50\n")  # of bench; init takes at most 20
    assert "no run under" in bmtas("show").err
    result = bmtas("init", ".")
    assert result.code == 2
    assert "bmtas.toml: samples = 50, for init" in " ".join(result.err.split())


def test_two_spellings_of_one_option_are_refused(bmtas: Callable[..., Any]) -> None:
    write('[search]\ncosts = "a.json"\ntable = "b.json"\n')
    assert "costs and table are one option" in " ".join(bmtas("show").err.split())
    assert "no run under" in bmtas("--config", "/dev/null", "show").err


def test_what_stands_at_the_top_reaches_the_searches_of_a_sweep(bmtas: Callable[..., Any]) -> None:
    write('data = "planted"\nbackbone = "tiny"\n')  # `data` is a command, too
    assert planned(bmtas)["backbone"] == "tiny"
    result = bmtas("sweep", "--budget", "4MMAdds", "--dry-run")
    assert result.code == 0, result.err
    assert "--backbone tiny" in " ".join(result.out.split())


def test_a_file_that_begins_with_a_byte_order_mark_is_read(bmtas: Callable[..., Any]) -> None:
    Path("bmtas.toml").write_text('runs = "marked"\n', encoding="utf-8-sig")
    assert "marked" in bmtas("show").err


def test_each_group_s_unnamed_command_is_its_own(bmtas: Callable[..., Any]) -> None:
    write('[profile]\nbackbone = "tiny"\ndata = "planted"\n[profile.run]\nthreads = 1\n')
    result = bmtas("profile", "--json", "-")
    assert result.code == 0, result.err
    assert json.loads(result.out)["backbone"] == "tiny"

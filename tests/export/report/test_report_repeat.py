"""The command lines of a report make the same run again, and the report needs no PyTorch."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmtas.config import RunConfig
from export.report.repeat import OWN_TABLE, search_command
from export.report.svg import ticks

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--budget 12MMAdds --budget 70kParams --seed 3 --size 64x48 --search-size 32x32",
        "--warmup-steps 3 --search-steps 7 --train-steps 9 --batch-size 6 --accumulate 3 --precision bf16",
        "--estimator sampled --cost-estimate published --activation-checkpointing --search-learning-rate 0.01",
        "--resource-weight 0.05 --decode argmax --train-learning-rate 0.5",
        "--no-resource-term --budget 4.5MMAdds --tasks a1,b2 --no-resizing",
        "--preset standard --weights none",
        "--preset paper --weights none --batch-size 4",
        "--method automtl --set policies=3 --search-steps 5",
        "--method dynamic --set tune_from=warm-up --batch-size 6",
        "--method cross-stitch --set init=backbone --train-steps 8",
        "--method single --precision bf16",
        "--method vanilla --budget 4.2MMAdds --batch-size 6",
    ],
)
def test_the_command_resolves_to_the_configuration_that_it_was_made_from(
    bmtas: Callable[..., Any], options: str
) -> None:
    first = bmtas(
        "search", "--data", "planted", "--backbone", "tiny", *shlex.split(options), "--dry-run", "--json", "-"
    )
    assert first.code == 0, first.err
    config = json.loads(first.out)
    command, notes = search_command(RunConfig.model_validate(config))
    assert notes == []
    again = bmtas(*shlex.split(command)[1:], "--dry-run", "--json", "-")
    assert again.code == 0, again.err
    assert json.loads(again.out) == config


def test_what_no_option_sets_is_told(bmtas: Callable[..., Any]) -> None:
    config = json.loads(bmtas("search", "--data", "planted", "--backbone", "tiny", "--dry-run", "--json", "-").out)
    config["search"]["arch_share"] = 0.3
    config["table_digest"] = "abc"
    command, notes = search_command(RunConfig.model_validate(config))
    assert f"--costs {OWN_TABLE}" in command
    assert "abc" in notes[0]
    assert "search.arch_share" in notes[1]


def test_commands_of_a_finished_run_stand_in_their_order(made: Callable[..., Any]) -> None:
    run = made(1)
    bench = run.json("bench.json")
    plain = bench["command"]
    bench["command"] = plain.replace("bmtas bench ", "bmtas bench --run 1 ")  # a new run may have another number
    assert bench["command"] != plain
    (run.path / "bench.json").write_text(json.dumps(bench), encoding="utf-8")
    _, page = run.report()
    begin = page.text.index("bmtas search --data planted")
    lines = page.text[begin:].replace(" \\\n    ", " ").splitlines()[:4]
    assert shlex.split(lines[0])[-2:] == ["--train-steps", "8"]
    assert lines[1] == "bmtas train --network shared,found,separate"
    assert lines[2] == "bmtas export --network found"
    assert lines[3] == plain


def test_reports_are_made_without_torch(made: Callable[..., Any]) -> None:
    run = made(1)
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from cli.main import run\n"
        f"sys.exit(run(['report', {str(run.path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run.path / "report.html").stat().st_size > 50_000


def test_template_and_style_go_into_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith('"export.report"'))
    patterns = json.loads(line.split("=", 1)[1])
    others = [p for p in (ROOT / "export/report").iterdir() if p.is_file() and p.suffix != ".py"]
    assert len(others) == 2
    assert all(any(path.match(pattern) for pattern in patterns) for path in others)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
        (0, 0.4, [0, 0.1, 0.2, 0.3, 0.4]),
        (5, 5, [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)

"""`bmtas bench` on the command line: a device without PyTorch, its files, its exit codes, and comparing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from cli.bench import bench_app
from cli.groups import DefaultGroup, default_group
from cli.main import app
from cli.main import run as run_main
from export.bench.report import read_report

# What the device role must do without: all of the extra `host` but the ONNX runtime.
HEAVY = ("torch", "torchvision", "torchmetrics", "fvcore", "onnx", "onnxscript", "PIL", "yaml", "scipy", "safetensors")
QUICK = ("--warmup", "0", "--threads", "1", "--quiet")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx of a tree of five tasks, and model.stages."""
    from export.stages.write import write_split
    from tests.export.stages_tree import tree_model

    folder = tmp_path_factory.mktemp("network")
    write_split(tree_model(folder / "model.onnx"), folder / "model.stages")
    return folder


def on_a_device(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process in which nothing of the host can be imported."""
    blocked = f"import sys\nfor name in {HEAVY}:\n    sys.modules[name] = None\n"
    code = f"{blocked}from cli.main import run\nsys.exit(run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "bench", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_device_without_pytorch_and_onnx(network: Path, tmp_path: Path) -> None:
    target, table = tmp_path / "a.json", tmp_path / "a.csv"
    done = on_a_device(
        *(
            network / "model.onnx",
            network / "model.stages",
            "--samples",
            "20",
            "--json",
            target,
            "--csv",
            table,
            *QUICK,
        ),
        *("--markdown", tmp_path / "a.md"),
    )
    assert done.returncode == 0, done.stderr
    report = read_report(target)
    assert [r.key for r in report.results] == ["model.onnx/onnxruntime", "model.stages/onnxruntime"]
    assert [r.compute.samples for r in report.results] == [20, 20]
    with table.open(newline="") as file:
        assert [line["network"] for line in csv.DictReader(file)] == ["model.onnx", "model.stages"]
    assert report.command is not None
    assert report.command in done.stdout
    assert report.command in (tmp_path / "a.md").read_text()
    assert report.command.startswith(f"bmtas bench {network / 'model.onnx'} {network / 'model.stages'} --threads 1")
    assert "--samples 20" in report.command
    assert "--json" not in report.command


def test_stages_tell_what_each_task_costs_and_layers_where_time_goes_without_onnx(network: Path) -> None:
    done = on_a_device(network / "model.stages", "--samples", "5", "--marginal", "--json", "-", *QUICK)
    assert done.returncode == 0, done.stderr
    (margins,) = json.loads(done.stdout)["marginal"]
    assert list(margins["tasks"]) == ["semseg", "parts", "depth", "normals", "scene"]
    done = on_a_device(network / "model.onnx", "--samples", "5", "--layers", "--json", "-", *QUICK)
    (layers,) = json.loads(done.stdout)["layers"]
    assert {"stem.semseg+parts+depth+normals+scene", "heads.depth"} <= {m["module"] for m in layers["modules"]}
    done = on_a_device(network / "model.onnx", "--samples", "5", "--marginal", *QUICK)
    assert done.returncode == 3
    assert "'onnx'" in done.stderr
    assert "pip install 'bmtas[host]'" in done.stderr


def test_exit_codes_of_limits_and_of_restlessness(network: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    missed = on_a_device(
        network / "model.onnx", "--samples", "20", "--fail-if", "max>0.001ms", "--json", target, *QUICK
    )
    assert missed.returncode == 6
    assert "'max>0.001ms': the longest of the sample is" in missed.stderr
    assert read_report(target).results[0].compute.samples == 20  # what was measured is told all the same
    kept = on_a_device(network / "model.onnx", "--samples", "20", "--fail-if", "max>1000s", *QUICK)
    assert kept.returncode == 0
    few = on_a_device(network / "model.onnx", "--samples", "20", "--strict", "--fail-if", "p99>1000s", *QUICK)
    assert few.returncode == 7  # first of all the measurement itself
    assert "p99 needs 662 samples at 99% confidence, there are 20" in few.stderr


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(bench_app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def measured(network: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One file measured twice."""
    folder = tmp_path_factory.mktemp("measured")
    for name in ("a.json", "b.json"):
        assert invoke(network / "model.onnx", "--samples", "30", "--json", folder / name, *QUICK).exit_code == 0
    return folder / "a.json", folder / "b.json"


def test_compare_is_a_command_of_its_own(measured: tuple[Path, Path]) -> None:
    done = invoke("compare", *measured, "--json", "-")
    assert done.exit_code == 0
    (found,) = json.loads(done.stdout)["compared"]
    first, second = (read_report(path).results[0].compute.median_ms for path in measured)
    assert (found["first_ms"], found["second_ms"]) == (first, second)
    assert found["ratio"] == pytest.approx(first / second)
    assert found["low"] < found["ratio"] < found["high"]
    shown = invoke("compare", *measured)
    assert "first / second" in shown.stdout
    assert found["verdict"] in " ".join(shown.stdout.split())


def test_unlike_measurements_are_refused_unless_forced(measured: tuple[Path, Path], tmp_path: Path) -> None:
    told = json.loads(measured[1].read_text())
    told["device"]["cpu"]["model"] = "Another processor"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(told))
    refused = main("bench", "compare", measured[0], other)
    assert refused[0] == 2
    assert "the processor differs" in refused[1]
    assert "--force" in refused[1]
    assert invoke("compare", measured[0], other, "--force").exit_code == 0


def main(*arguments: object) -> tuple[int, str]:
    """Run the whole command line with the group in it; return exit code and standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run_main([str(a) for a in arguments])
    return code, errors.getvalue()


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (("bench",), "Usage: bmtas bench [OPTIONS]"),
        (("bench", "compare"), "Usage: bmtas bench compare [OPTIONS]"),
        (("profile",), "Usage: bmtas profile [OPTIONS]"),
        (("profile", "run"), "Usage: bmtas profile run [OPTIONS]"),
    ],
)
def test_usage_names_the_command_that_is_typed(command: tuple[str, ...], usage: str) -> None:
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="bmtas")
    assert usage in done.stdout


def test_help_shows_the_options_of_bench_and_tells_of_compare() -> None:
    text = " ".join(invoke("--help").stdout.split())
    assert "--time-cap" in text
    assert "bmtas bench compare" in text
    assert "--force" in invoke("compare", "--help").stdout
    assert "--force" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--fps", "0"), "--fps 0"),
        (("--threads", "many"), "--threads 'many'"),
        (("--warmup", "soon"), "--warmup 'soon'"),
        (("--percentiles", "50,101"), "101 is no percentile"),
        (("--fail-if", "fast"), "--fail-if 'fast'"),
        (("--batch", "2"), "--dynamic batch"),
        (("--rates", "depth=1/2"), "--split-at-branches"),
        (("--rates", "depth=2"), "no fraction of the frames"),
        (("--fps", "nan"), "--fps nan"),
        (("--time-cap", "0"), "--time-cap 0"),
        (("--time-cap", "nan"), "--time-cap nan"),
        (("--time-cap", "inf"), "--time-cap inf"),
        (("--spread", "0"), "--spread 0"),
        (("--spread", "nan"), "--spread nan"),
        (("--percentiles", "50,nan"), "--percentiles '50,nan'"),
    ],
)
def test_what_cannot_be_measured_is_refused(network: Path, arguments: tuple[str, ...], told: str) -> None:
    code, errors = main("bench", network / "model.onnx", "--quiet", *arguments)
    assert code == 2
    assert told in errors


def test_a_group_with_a_default_command() -> None:
    app = default_group()

    @app.command(DefaultGroup.DEFAULT, hidden=True)
    def run(names: Annotated[list[str] | None, typer.Argument()] = None, loud: bool = False) -> None:
        typer.echo(f"run {names} {loud}")

    @app.command("other")
    def other(name: str) -> None:
        typer.echo(f"other {name}")

    def said(*arguments: str) -> str:
        return str(CliRunner().invoke(app, list(arguments)).stdout.strip())

    assert said("a", "other") == "run ['a', 'other'] False"
    assert said("--loud", "a") == "run ['a'] True"
    assert said("other", "b") == "other b"
    assert said() in ("run None False", "run [] False")

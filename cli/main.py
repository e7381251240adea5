"""The entry point: the commands, and the translation of errors into one message and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from bmtas.errors import BmtasError, BudgetError, EnvironmentProblem, UsageError
from bmtas.extras import own_version
from bmtas.ranks import processes
from cli.bench import bench_app
from cli.build import build_command
from cli.check import check_command
from cli.compare import compare_command
from cli.configuration import FILE_NAME, configure
from cli.console import report_error, set_verbose
from cli.data import data_app
from cli.decode import decode_command
from cli.doctor import doctor_command
from cli.evaluate import evaluate_command
from cli.export import export_command
from cli.init import init_command
from cli.predict import predict_command
from cli.profile import profile_app
from cli.report import report_command
from cli.search import search_command
from cli.show import show_command
from cli.sweep import sweep_command
from cli.train import train_command
from costs.errors import BudgetBelowReach, CostError

app = typer.Typer(
    name="bmtas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find, train, export and measure multi-task networks under a resource budget.",
    epilog="A first run needs no data: bmtas search --budget 9GMAdds, then bmtas train, bmtas export, bmtas bench, bmtas show.",
)
app.add_typer(profile_app)
app.command("init")(init_command)
app.command("search")(search_command)
app.command("decode")(decode_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("build")(build_command)
app.command("check")(check_command)
app.command("predict")(predict_command)
app.add_typer(bench_app)
app.command("show")(show_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("sweep", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sweep_command)
app.command("doctor")(doctor_command)
app.add_typer(data_app)


# What the extra `host` brings. The device role has none of it, and its commands import none of it.
_HOST_PACKAGES = frozenset(
    (
        "fvcore",
        "lightning_fabric",
        "matplotlib",
        "onnx",
        "onnxscript",
        "PIL",
        "safetensors",
        "scipy",
        "torch",
        "torchmetrics",
        "torchvision",
        "yaml",
    )
)


def _version(value: bool) -> None:
    if value:
        typer.echo(own_version())
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(
            envvar="BMTAS_CONFIG",
            help=f"Settings (TOML); {FILE_NAME} of this folder if left out. What is typed goes before it.",
        ),
    ] = None,
    plugin: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="A Python file of your own that brings backbones or kinds of tasks; it is run. Repeatable."),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="A line of progress each second in logs, and where errors come from."),
    ] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    set_verbose(on=verbose)
    configure(context, config, plugin or [])
    if processes() > 1 and context.invoked_subcommand not in ("search", "train"):
        raise UsageError(
            f"{context.invoked_subcommand} in {processes()} processes would do the same {processes()} times over; only search and "
            "train share their work, so start this one without torchrun"
        )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; expected errors become one message on standard error."""
    try:
        app(args=arguments)
    except SystemExit as exit_request:
        code = exit_request.code
        return code if isinstance(code, int) else 1
    except BmtasError as error:
        if getattr(error, "told", False):  # by another process of this run
            return error.exit_code
        return _report(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _HOST_PACKAGES:
            raise
        return _report(
            f"this command needs {error.name}, which is not installed here; install it with: pip install 'bmtas[host]', or make setup in a clone",
            EnvironmentProblem.exit_code,
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _report(f"no space left on the disk: {error}", EnvironmentProblem.exit_code)
        raise
    except BudgetBelowReach as error:
        return _report(str(error), BudgetError.exit_code)
    except CostError as error:
        return _report(str(error), UsageError.exit_code)
    return 0


def _report(message: str, code: int) -> int:
    report_error(message)
    return code


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run())

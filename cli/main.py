"""The entry point: the commands, and the translation of errors into one message and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from bmtas.errors import BmtasError, BudgetError, EnvironmentProblem, UsageError
from bmtas.extras import own_version
from bmtas.ranks import processes, torchrun_rank
from cli.bench import bench_app
from cli.build import build_command
from cli.check import check_command
from cli.compare import compare_command
from cli.data import data_app
from cli.decode import decode_command
from cli.doctor import doctor_command
from cli.evaluate import evaluate_command
from cli.export import export_command
from cli.predict import predict_command
from cli.profile import profile_app
from cli.search import search_command
from cli.show import show_command
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
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
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
    from cli.console import err

    rank = torchrun_rank()
    whose = f"process {rank}: " if rank else ""  # the first one speaks for all; what others met is told apart from it
    err().print(f"[bold red]{whose}error:[/] {escape(message)}")
    return code


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run())

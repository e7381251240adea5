"""Options that several commands have, so that they are spelt and explained alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_RUNS = Path("runs")

Runs = Annotated[Path, typer.Option("--runs", help="Folder in which run folders are kept.", envvar="BMTAS_RUNS")]


def run_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the folder that is meant whose names begin so, the newest first: for completion."""
    from bmtas.runs import all_runs
    from cli.configuration import usual_runs

    folder = context.params.get("runs") or os.environ.get("BMTAS_RUNS") or DEFAULT_RUNS
    return [run.name for run in all_runs(usual_runs(Path(folder))) if run.name.startswith(incomplete)]


def completing(*known: str) -> Callable[[str], list[str]]:
    """Return a completion of values that are known."""
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def choices(name: str) -> Callable[[str], list[str]]:
    """Return a completion of the values of an enumeration in `bmtas.config`, which is imported when it is asked."""

    def complete(incomplete: str) -> list[str]:
        import bmtas.config

        return completing(*(choice.value for choice in getattr(bmtas.config, name)))(incomplete)

    return complete


RunName = Annotated[
    str | None,
    typer.Option("--run", help="Name, number or path of a run; the latest one if left out.", autocompletion=run_names),
]
Json = Annotated[
    str | None, typer.Option("--json", help="Write the result as JSON to this file, or to standard output for '-'.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU if PyTorch sees one), cpu, or cuda.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the layers by torch.compile: slow to begin, then faster on a GPU.")
]
Network = Annotated[
    str,
    typer.Option(
        "--network",
        help="found, shared, separate, inherited, several of them with commas, or all (the first three).",
        autocompletion=completing("found", "shared", "separate", "inherited", "all"),
    ),
]

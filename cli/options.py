"""Options that several commands have, so that they are spelt and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder in which run folders are kept.", envvar="BMTAS_RUNS")]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name, number or path of a run; the latest one if left out.")
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
        "--network", help="found, shared, separate, inherited, several of them with commas, or all (the first three)."
    ),
]

DEFAULT_RUNS = Path("runs")

"""`bmtas report`: a run, or several side by side, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import DEFAULT_RUNS, Json, RunName, Runs


def report_command(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer reads it on 3.10
        typer.Argument(
            metavar="RUN...",
            help="Names, numbers or paths of runs; the latest one if left out. Several share one file.",
        ),
    ] = None,
    run: RunName = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Where to write; RUN/report.html if left out, for several runs/report.html."
        ),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
) -> None:
    """Write a report as one HTML file that works offline and prints: question, answer, tree, metrics, latency, proofs, how to repeat it.

    What is missing is said with the command that would fill it. A file that cannot be read is named, the rest is written all the same,
    and the exit code is 2. Needs no PyTorch.

    Example: bmtas report 003 005 --output report.html
    """
    from bmtas.errors import UsageError
    from bmtas.runs import open_run
    from cli.console import emit_json, err, out
    from export.report.write import NAME, make_report, write_report

    if names and run is not None:
        raise UsageError(f"--run {run} and RUN {' '.join(names)} both say which run is meant; give one of the two")
    if output is not None and output.suffix.lower() not in (".html", ".htm") and not output.is_dir():
        raise UsageError(
            f"--output {output}: a report is HTML; give a name that ends in .html, so that no other file is replaced"
        )
    chosen = [open_run(runs, name) for name in names] if names else [open_run(runs, run)]
    report = make_report(chosen)
    path = output or (chosen[0].path if len(report.pages) == 1 else runs) / NAME
    if json not in (None, "-") and Path(str(json)).resolve() == path.resolve():
        raise UsageError(f"--json {json} is the report itself; name another file")
    write_report(report, path)
    if json is not None:
        emit_json(report.to_json(path), json)
    if json != "-":
        out().print(str(path), markup=False, soft_wrap=True)
    missing = report.missing()
    if missing and json != "-":
        count = "1 thing is" if len(missing) == 1 else f"{len(missing)} things are"
        err().print(f"{count} not there yet; the report says which commands would fill it in", markup=False)
    if report.problems:
        raise UsageError("the report is written without what could not be read: " + "; ".join(report.problems))

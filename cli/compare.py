"""`bmtas compare`: the networks of several runs in one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from cli.options import DEFAULT_RUNS, Json, Runs


def compare_command(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer reads it on 3.10
        typer.Argument(
            metavar="RUN...",
            help="Names, numbers or paths of runs; if left out, all with measured networks that are like the latest one.",
        ),
    ] = None,
    markdown: Annotated[Optional[Path], typer.Option(help="Write the table in Markdown to this file.")] = None,  # noqa: UP045
    latex: Annotated[Optional[Path], typer.Option(help="Write the table as a LaTeX tabular to this file.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="Write all numbers as CSV to this file.")] = None,  # noqa: UP045
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw Delta_m over multiply-adds into this PNG file."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
) -> None:
    """Compare the trained networks of several runs: costs, latency, metrics, Delta_m with its spread over seeds.

    Runs that differ in the seed alone become one row. Runs on different data or metrics are refused. Needs no PyTorch.

    Example: bmtas compare --markdown table.md --picture pareto.png
    """
    from bmtas.comparison import compare_runs
    from bmtas.comparison_text import to_csv, to_json, to_latex, to_markdown
    from bmtas.errors import UsageError
    from bmtas.files import write_text
    from bmtas.measured import alike_the_last
    from bmtas.plots_pareto import draw_pareto
    from bmtas.runs import all_runs, measured_runs, open_run
    from cli.console import emit_json, err, out

    left: list[str] = []
    if names:
        chosen = [open_run(runs, name) for name in names]
    else:
        measured = measured_runs(all_runs(runs))
        if not measured:
            raise UsageError(
                f"no run under {runs.resolve()} has a measured network; `bmtas train` trains and measures one"
            )
        chosen, left = alike_the_last(measured)
    comparison = compare_runs(chosen)
    for path, text in ((markdown, to_markdown), (latex, to_latex), (csv, to_csv)):
        if path is not None:
            write_text(path, text(comparison))
    if picture is not None:
        draw_pareto(comparison, picture)
    named = Path(json) if json not in (None, "-") else None
    written = [path for path in (markdown, latex, csv, named, picture) if path is not None]
    if json is not None:
        emit_json(to_json(comparison), json)
    if json != "-":
        console = out()
        console.print(_view(comparison, brief=console.width < _WIDE))
    for note in (*left, *comparison.notes):
        err().print(note, markup=False)
    if written:
        err().print("written: " + ", ".join(map(str, written)), markup=False)


_WIDE = 120
"""Characters a line from which on the table has room for all costs."""
_NAMING = 2
"""The first columns, by which rows are told apart."""


def _view(comparison: object, *, brief: bool) -> object:
    from rich import box
    from rich.table import Table

    from bmtas.comparison import Comparison
    from bmtas.comparison_text import caption, table_cells, table_head

    assert isinstance(comparison, Comparison)
    view = Table(title="networks side by side", caption=caption(comparison))
    if brief:
        # No frame, one cost, and the deviation below the mean, so that names break and no number does.
        view.box, view.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    for number, title in enumerate(table_head(comparison, brief=brief)):
        heading = title.replace(" ", "\n")
        wraps = not brief or number < _NAMING
        justify: Literal["left", "right"] = "right" if number else "left"
        view.add_column(heading, justify=justify, overflow="fold", no_wrap=not wraps)
    for cells in table_cells(comparison, brief=brief):
        numbers = cells[_NAMING:]
        if brief:
            numbers = [cell.replace(" \u00b1 ", "\n\u00b1").replace(" ", "\n") for cell in numbers]
        view.add_row(*cells[:_NAMING], *numbers)
    return view

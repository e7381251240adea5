"""`bmtas compare`: the networks of several runs in one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import DEFAULT_RUNS, Json, Runs


def compare_command(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer reads it on 3.10
        typer.Argument(metavar="RUN...", help="Names or paths of runs; all runs with measured networks if left out."),
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
    from bmtas.plots_pareto import draw_pareto
    from bmtas.runs import all_runs, measured_runs, open_run
    from cli.console import emit_json, err, out

    chosen = [open_run(runs, name) for name in names] if names else measured_runs(all_runs(runs))
    if not chosen:
        raise UsageError(f"no run under {runs.resolve()} has a measured network; `bmtas train` trains and measures one")
    comparison = compare_runs(chosen)
    for path, text in ((markdown, to_markdown), (latex, to_latex), (csv, to_csv)):
        if path is not None:
            write_text(path, text(comparison))
    if picture is not None:
        draw_pareto(comparison, picture)
    written = [path for path in (markdown, latex, csv, picture) if path is not None]
    if json is not None:
        emit_json(to_json(comparison), json)
    if json != "-":
        out().print(_view(comparison))
    for note in comparison.notes:
        err().print(note, markup=False)
    if written:
        err().print("written: " + ", ".join(map(str, written)), markup=False)


def _view(comparison: object) -> object:
    from rich.table import Table

    from bmtas.comparison import Comparison
    from bmtas.comparison_text import caption, table_cells, table_head

    assert isinstance(comparison, Comparison)
    view = Table(title="networks side by side", caption=caption(comparison))
    for number, title in enumerate(table_head(comparison)):
        view.add_column(title.replace(" ", "\n", 1), justify="right" if number else "left")
    for cells in table_cells(comparison):
        view.add_row(*cells)
    return view

"""`bmtas decode`: another tree from a search that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import DEFAULT_RUNS, Json, Quiet, RunName, Runs


def decode_command(
    budget: Annotated[
        list[str] | None, typer.Option(help="Other budgets than the run's; may be given once per resource.")
    ] = None,
    measured: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="What the device measured of the exported network (`bmtas bench --json`); the table is corrected by it."
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="Its name in that file.")] = "found",
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Derive another tree from a finished search: for other budgets, or after the device has measured the first one.

    Nothing is searched again; the tree gets a run folder of its own, to be trained and exported.

    Example: bmtas decode --budget 12ms --measured bench.json
    """
    from bmtas.decoding import decode_again, plan_again
    from bmtas.errors import UsageError
    from bmtas.files import read_json
    from bmtas.runs import FOUND, open_run
    from bmtas.tables import architecture_costs
    from cli.console import ShownProgress, emit_json, out
    from cli.show import render_run
    from export.latency.keeping import metered
    from export.latency.readings import readings_from

    if not budget and measured is None:
        raise UsageError("give other budgets (--budget), what the device has measured (--measured), or both")
    chosen = open_run(runs, run)
    with ShownProgress(quiet=quiet) as progress:
        table, tasks = chosen.table(), chosen.config().task_list()
        readings = {}
        if measured is not None:
            costs = architecture_costs(table, chosen.architecture(FOUND))
            readings = readings_from(measured, table, costs, tuple(task.name for task in tasks), network)
        again = plan_again(chosen, tuple(budget or ()), readings, progress)
        kept = metered(again.table, again.budgets, tasks, progress)
        made = decode_again(again, kept.table, kept.meter, progress)
    if json is not None:
        emit_json({"run": str(made.path), **read_json(made.architecture_path, 1)}, json)
    if json != "-":
        render_run(made, out())

"""`bmtas evaluate`: metrics per task on the validation split."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import DEFAULT_RUNS, Device, Json, Quiet, RunName, Runs


def evaluate_command(
    network: Annotated[
        str | None,
        typer.Option("--network", help="found, shared, separate, inherited, or all; every trained one if left out."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use only so many validation images, spread over the split; takes the place of what was measured before.",
        ),
    ] = None,
    device: Device = "auto",
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure trained networks: each task's metric, the best constant prediction beside it, and Delta_m.

    Example: bmtas evaluate --json -
    """
    from bmtas.runs import FOUND, open_run
    from bmtas.summary import summarise_run
    from bmtas.workflow import evaluate_networks
    from cli.console import ShownProgress, emit_json, out
    from cli.networks import chosen_networks
    from cli.show import render_results

    chosen = open_run(runs, run)
    names = chosen_networks(network) if network else chosen.trained()
    if not names:
        chosen.require_trained(FOUND)  # raises, and says which command comes first
    with ShownProgress(quiet=quiet) as progress:
        evaluate_networks(chosen, names, progress, images=images, device=device)
    if json is not None:
        emit_json(summarise_run(chosen), json)
    if json != "-":
        render_results(chosen, out())

"""`bmtas train`: train the network that the search found, and those it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import DEFAULT_RUNS, Compile, Device, Json, Network, Quiet, RunName, Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmtas.runs import Run


def train_command(
    network: Network = "found",
    init: Annotated[
        str,
        typer.Option(
            help="backbone: the found network begins with the backbone's weights (the paper); search: with those that the search "
            "has learned, kept as the network 'inherited' beside it."
        ),
    ] = "backbone",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained and stop.")] = False,
    train_steps: Annotated[Optional[str], typer.Option("--train-steps", hidden=True)] = None,  # noqa: UP045
    compiled: Compile = False,
    device: Device = "auto",
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Train the tree-shaped network of a run from the backbone's weights, then evaluate it.

    `--network all` also trains the all-shared network and the separate single-task networks in the same way; Delta_m
    is relative to the separate ones. The same command goes on where training was stopped.

    Example: bmtas train --network all
    """
    from bmtas.device import pick_device
    from bmtas.errors import UsageError, nearest
    from bmtas.parallel import How, join_processes
    from bmtas.ranks import speaks
    from bmtas.runs import FOUND, INHERITED, open_run
    from bmtas.summary import summarise_run
    from bmtas.workflow import train_networks
    from cli.console import ShownProgress, emit_json, out
    from cli.networks import chosen_networks
    from cli.next_step import after_training, say_next
    from cli.show import render_results

    if train_steps is not None:
        raise UsageError(
            "--train-steps belongs to `bmtas search`: how long to train is part of a run, so that all its networks are trained "
            f"alike; start another run by `bmtas search ... --train-steps {train_steps}`"
        )
    if init not in ("backbone", "search"):
        raise UsageError(f"unknown --init {init!r}; {nearest(init, ['backbone', 'search'])}")
    chosen = open_run(runs, run)
    names = chosen_networks(network)
    if init == "search":
        if not {FOUND, INHERITED} & set(names):
            raise UsageError(f"--init search: only the network found can inherit, not {' and '.join(names)}")
        # Beside the others, which it is compared with; otherwise instead of the network found.
        names = [*names, INHERITED] if network == "all" else [INHERITED if name == FOUND else name for name in names]
        names = list(dict.fromkeys(names))
    for name in names:
        chosen.architecture(name)  # says which command comes first, before anything runs
    if dry_run:
        pick_device(device)
        _describe(chosen, names, json)
        return
    how = How(join_processes(device), compile=compiled)
    with ShownProgress(quiet=quiet or not speaks()) as progress:
        train_networks(chosen, names, progress, how, device)
    if not speaks():
        return
    if json is not None:
        emit_json(summarise_run(chosen), json)
    if json != "-":
        render_results(chosen, out())
    say_next(after_training(chosen, names), chosen, run, runs, silent=quiet or json == "-")


def _describe(run: Run, names: Sequence[str], json: str | None) -> None:
    """Print what training would do."""
    from cli.console import emit_json, out

    config = run.config()
    settings, (height, width) = config.train, config.train_size
    left = [name for name in names if name not in run.trained()]
    if json is not None:
        told = {"steps": settings.steps, "batch_size": settings.batch_size, "size": [height, width]}
        emit_json({"schema_version": 1, "run": run.name, "to_train": left, **told}, json)
    if json == "-":
        return
    for name in names:
        what = (
            f"{settings.steps} steps at {height}x{width}, batch {settings.batch_size}"
            if name in left
            else "is trained already"
        )
        out().print(f"{run.name}, {name}: {what}", markup=False)
    out().print("nothing was written (--dry-run)")

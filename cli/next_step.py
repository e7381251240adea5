"""The line that closes a command: which one comes next, as it is to be typed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmtas.runs import FOUND, SEPARATE, SHARED, Run, open_run
from cli.console import err
from cli.options import DEFAULT_RUNS


@dataclass(frozen=True)
class Following:
    """The command that comes next, with its own arguments, and what to look at meanwhile."""

    command: str
    arguments: tuple[str, ...] = ()
    beside: str = ""
    of_run: bool = True
    run_is_argument: bool = False


def after_training(run: Run, names: Sequence[str]) -> Following:
    """Return the export of the networks `names` of a run, and where their predictions are drawn."""
    network = "all" if set(names) >= {SHARED, FOUND, SEPARATE} else ",".join(names)
    pictures = [run.network(name) / "predictions.png" for name in sorted(names, key=lambda name: name != FOUND)]
    drawn = [path for path in pictures if path.exists()]  # none where all tasks answer for a whole image
    return Following(
        "export",
        () if network == FOUND else ("--network", network),
        f"; predictions: {drawn[0]}" if drawn else "",
    )


def after_export(run: Run, paths: Sequence[Path]) -> Following | None:
    """Return the measurement of files that a runtime measures: of the run if it finds them by itself; None without any."""
    if not paths:
        return None
    if any(path == run.network(name) / "model.onnx" for name in run.exported() for path in paths):
        return Following("bench")
    return Following("bench", tuple(map(str, paths)), of_run=False)


def say_next(following: Following, run: Run, asked: str | None, runs: Path, *, silent: bool) -> None:
    """Say on standard error what comes after the work on `run`, unless `silent`.

    The folder of runs is named unless it is the usual one, the run if it was `asked` for or is not the latest.
    """
    if silent:
        return
    words = ["bmtas", following.command, *following.arguments]
    if following.of_run:
        named = asked if asked is not None else run.name if open_run(runs, None).path != run.path else None
        if named is not None:
            words += [named] if following.run_is_argument else ["--run", named]
        if runs != DEFAULT_RUNS:
            words += ["--runs", str(runs)]
    err().print(f"next: {shlex.join(words)}{following.beside}", markup=False)

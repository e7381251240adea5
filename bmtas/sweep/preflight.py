"""Before a sweep's folder is made: whether its options can be resolved at all, and budgets where none was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

from bmtas.config import Method, RunConfig
from bmtas.errors import BmtasError, BudgetError, EnvironmentProblem
from bmtas.sweep.ledger import settings_text
from bmtas.sweep.plan import Job, SweepSpec, job_list, search_arguments
from costs.reach import budget_range
from costs.units import Resource, format_quantity

_SHARES = (0.25, 0.5, 0.75)
"""Where in the reach budgets are taken if none is given."""
_DIGITS = 4


class CannotStart(BmtasError):
    """The search that all jobs begin with refuses what it was given."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def check_start(spec: SweepSpec, code: str) -> dict[str, Any]:
    """Return the configuration that one of the methods resolves without a budget, so that what is wrong for all jobs is told once.

    Reads the data as `bmtas search --dry-run` does, in a process of its own; `code` is Python code that runs the command line. Raises CannotStart with what that has
    said and its exit code, and EnvironmentProblem where its process cannot be started.
    """
    method = min(spec.methods, key=lambda m: (m is not Method.BRANCHED, not m.searches, m is Method.SINGLE))
    with tempfile.TemporaryDirectory(prefix="bmtas-sweep-") as folder:
        settings, resolved = Path(folder, "settings.toml"), Path(folder, "run.json")
        settings.write_text(settings_text(spec.plugins), encoding="utf-8")
        arguments = search_arguments(spec, Job("", method, (), spec.seeds[0]), folder)
        done = _run(
            [sys.executable, "-c", code, *arguments, "--dry-run", "--json", str(resolved)],
            spec.folder,
            {**os.environ, "BMTAS_CONFIG": str(settings), "NO_COLOR": "1"},
        )
        if done.returncode != 0:
            raise _refused(done.stderr, done.returncode)
        checked: dict[str, Any] = json.loads(resolved.read_text(encoding="utf-8"))
        return checked


def check_jobs(spec: SweepSpec, code: str) -> list[str]:
    """Say which jobs of the first seed are below the reach, each method with each budget being resolved; seeds change nothing of it.

    Reads the data as `bmtas search --dry-run` does, in one process for all; `code` is Python code whose arguments are the path of a JSON file with the arguments of
    commands, and that of a JSON file into which it writes the exit code of each with what it has said, up to the first that is neither 0 nor 6.
    Raises CannotStart where that is so, or where no job with a budget can start, and EnvironmentProblem as `check_start` does.
    """
    jobs = [job for job in job_list(spec) if job.seed == spec.seeds[0]]
    with tempfile.TemporaryDirectory(prefix="bmtas-sweep-") as folder:
        settings, asked, answers = (Path(folder, name) for name in ("settings.toml", "asked.json", "answers.json"))
        settings.write_text(settings_text(spec.plugins), encoding="utf-8")
        commands = [[*search_arguments(spec, job, folder), "--dry-run"] for job in jobs]
        asked.write_text(json.dumps(commands), encoding="utf-8")
        environment = {**os.environ, "BMTAS_CONFIG": str(settings), "NO_COLOR": "1"}
        done = _run([sys.executable, "-c", code, str(asked), str(answers)], spec.folder, environment)
        if done.returncode != 0:
            raise _refused(done.stderr, done.returncode)
        told: list[tuple[int, str]] = json.loads(answers.read_text(encoding="utf-8"))
    below: dict[str, CannotStart] = {}
    for job, (exit_code, said) in zip(jobs, told, strict=False):
        if exit_code == BudgetError.exit_code and job.budgets:
            below[job.name] = _refused(said, exit_code)
        elif exit_code != 0:
            raise _refused(said, exit_code)
    if below and len(below) == sum(bool(job.budgets) for job in jobs):
        raise next(iter(below.values()))
    return [f"{name} will fail: {error}" for name, error in below.items()]


def _refused(said: str, exit_code: int) -> CannotStart:
    reason = said.rpartition("error: ")[2].strip() or f"`bmtas search --dry-run` ended with exit code {exit_code}"
    return CannotStart(reason, exit_code if exit_code > 0 else 128 - exit_code)


def _run(command: list[str], folder: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 -- our own command line
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    except OSError as error:
        advice = (
            "start the sweep in a folder that is there and that you may enter"
            if error.filename == folder
            else "a sweep runs its jobs by this interpreter, which you must be allowed to execute"
        )
        raise EnvironmentProblem(
            f"the sweep's first process cannot be started in {folder}: {error}; {advice}"
        ) from error


def with_budgets(spec: SweepSpec, checked: dict[str, Any]) -> tuple[SweepSpec, str]:
    """Return the specification with three budgets in multiply-adds, evenly within the reach of trees, and a note that tells them.

    `checked` is what `check_start` returns. Counts the layers, which imports torch.
    """
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table

    config = RunConfig.model_validate(checked)
    table = build_table(get_backbone(config.backbone), config.task_list(), config.deploy_size)
    low, high = budget_range(table, Resource.MADDS)
    texts = [
        format_quantity(low + share * (high - low), Resource.MADDS, digits=_DIGITS, rounding=ROUND_CEILING).replace(
            " ", ""
        )
        for share in _SHARES
    ]
    note = f"no --budget given: {', '.join(texts)}, a quarter, half and three quarters of the way from the cheapest tree to the dearest"
    return spec.model_copy(update={"budgets": [[text] for text in dict.fromkeys(texts)]}), note

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
from bmtas.errors import BmtasError
from bmtas.sweep.plan import Job, SweepSpec, search_arguments
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
    said and its exit code.
    """
    method = min(spec.methods, key=lambda m: (m is not Method.BRANCHED, not m.searches, m is Method.SINGLE))
    with tempfile.TemporaryDirectory(prefix="bmtas-sweep-") as folder:
        settings, resolved = Path(folder, "settings.toml"), Path(folder, "run.json")
        settings.write_text(f"plugins = {json.dumps(spec.plugins)}\n", encoding="utf-8")
        arguments = search_arguments(spec, Job("", method, (), spec.seeds[0]), folder)
        done = subprocess.run(  # noqa: S603 -- our own command line
            [sys.executable, "-c", code, *arguments, "--dry-run", "--json", str(resolved)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=spec.folder,
            env={**os.environ, "BMTAS_CONFIG": str(settings), "NO_COLOR": "1"},
            check=False,
        )
        if done.returncode != 0:
            said = (
                done.stderr.rpartition("error: ")[2].strip()
                or f"`bmtas search --dry-run` ended with exit code {done.returncode}"
            )
            raise CannotStart(said, done.returncode if done.returncode > 0 else 128 - done.returncode)
        checked: dict[str, Any] = json.loads(resolved.read_text(encoding="utf-8"))
        return checked


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

"""Sweeps whose commands are stand-ins that need no torch, so that what is tested is the conduct of jobs."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bmtas.config import Method
from bmtas.sweep.ledger import Sweep, create_sweep
from bmtas.sweep.plan import SweepSpec
from cli.main import run

STAND_IN = """
import os, sys, time
from pathlib import Path
from bmtas.sweep.guard import end_with_parent, take_folder
end_with_parent()
lock = take_folder(Path(sys.argv[1]))
arguments = dict(zip(sys.argv[3::2], sys.argv[4::2]))
job = Path(arguments["--runs"]).parent
count = job / "begun.txt"
begun = len(count.read_text()) + 1 if count.exists() else 1
count.write_text("x" * begun)
print(f"command {sys.argv[2]} begun {begun} threads {os.environ['OMP_NUM_THREADS']}", flush=True)
BEHAVIOUR
folder = Path(arguments["--runs"]) / "001-stand-in"
folder.mkdir(parents=True)
(folder / "run.json").write_text("{}")
(folder / "architecture.json").write_text(f"{arguments['--seed']} {arguments.get('--budget')}")
"""
"""What a search leaves behind as far as a sweep without training looks at it."""


@pytest.fixture(scope="session")
def stand_in() -> Callable[[str], str]:
    """Return a function that gives the code of a command with some lines of behaviour before its result is written."""
    return lambda behaviour: STAND_IN.replace("BEHAVIOUR", behaviour)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """Return a function that makes a sweep of branched searches without training."""

    def make(budgets: tuple[str, ...] = ("4MMAdds",), seeds: tuple[int, ...] = (0,), **changes: Any) -> Sweep:
        values = {
            "written_by": "0",
            "folder": str(tmp_path),
            "budgets": [[text] for text in budgets],
            "methods": [Method.BRANCHED],
            "seeds": list(seeds),
            "options": [],
            "plugins": [],
            "train": False,
            "bench": False,
            "threads": 1,
        }
        return create_sweep(tmp_path / "sweeps", SweepSpec.model_validate({**values, **changes}), "stand-in", None)

    return make


@dataclass(frozen=True)
class Answer:
    """What one command answered."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def bmtas() -> Callable[..., Answer]:
    """The command line, run in this process."""

    def invoke(*arguments: object) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(a) for a in arguments])
        return Answer(code, out.getvalue(), err.getvalue())

    return invoke


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-c", "import sys; sys.argv[0] = 'bmtas'; from cli.main import main; main()"]

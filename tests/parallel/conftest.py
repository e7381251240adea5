"""Starts scripts and commands in several processes, as a user does: with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent


@pytest.fixture
def torchrun() -> Callable[..., subprocess.Popen[str]]:
    """Return a function (processes, *command) that starts a command, or a script of this folder, and returns its process."""

    def start(processes: int, *command: Any) -> subprocess.Popen[str]:
        words = [str(word) for word in command]
        if words[0].endswith(".py"):
            words = [sys.executable, str(HERE / words[0]), *words[1:]]
        launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(processes), "--no-python"]
        return subprocess.Popen(
            (launcher if processes > 1 else []) + words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture
def finished(torchrun: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[str, str]]:
    """Return a function (processes, *command) that runs a command to its good end and returns what it has printed."""

    def run(processes: int, *command: Any) -> tuple[str, str]:
        process = torchrun(processes, *command)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out, err

    return run

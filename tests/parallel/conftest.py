"""Starts scripts and commands in several processes, as a user does: with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent


@pytest.fixture
def torchrun() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function (processes, *command) that starts a command, or a script of this folder, and returns its process."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int, *command: Any) -> subprocess.Popen[str]:
        words = [str(word) for word in command]
        if words[0].endswith(".py"):
            words = [sys.executable, str(HERE / words[0]), *words[1:]]
        launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(processes), "--no-python"]
        process = subprocess.Popen(
            (launcher if processes > 1 else []) + words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@pytest.fixture
def finished(torchrun: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[str, str]]:
    """Return a function (processes, *command) that runs a command to its good end and returns what it has printed."""

    def run(processes: int, *command: Any) -> tuple[str, str]:
        process = torchrun(processes, *command)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out, err

    return run

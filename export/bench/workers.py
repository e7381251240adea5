"""Networks in PyTorch, each in a worker process of its own: this process never imports torch."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bmtas.errors import BuildError, EnvironmentProblem
from bmtas.plugins import named_plugins


class Worker:
    """A network in PyTorch in a process of its own, which runs once when it is told to."""

    def __init__(self, arguments: list[str], what: str, remedy: str) -> None:
        """Start the worker and wait until it has loaded the network. Raises BuildError, ending with `remedy`, if it does not come up."""
        self._what, self._remedy = what, remedy
        # `-m` looks in the working directory first, and a user's folder may hold an export.py of her own.
        home = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(  # noqa: S603 -- our own module, arguments passed as a list
            [sys.executable, "-m", "export.eager_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=home,
        )
        self.end_to_end_ms: list[float] = []
        try:
            self.about = self._read()
        except BaseException:
            self.close()
            raise

    def __call__(self) -> float:
        """Let the worker run once; return the ms that it measured. Raises BuildError if it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading tells what happened
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        answer = self._read()
        if answer.get("end_to_end_ms") is not None:
            self.end_to_end_ms.append(float(answer["end_to_end_ms"]))
        return float(answer["ms"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BuildError(
                f"the PyTorch {self._what} worker ended with code {self._process.wait()}; its message is above"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BuildError(f"PyTorch {self._what} cannot be measured: {answer['error']}; {self._remedy}")
        return answer

    def __enter__(self) -> Worker:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker."""
        self.close()

    def close(self) -> None:
        """End the worker and wait until it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def eager_worker(run: Path, network: str, provider: str, threads: int) -> Worker:
    """Return a trained network of a run in PyTorch eager."""
    device = "cpu" if provider == "cpu" else "cuda"  # the hardware that ONNX Runtime was asked to use
    plugins = [str(path) for path in named_plugins()]
    arguments = ["network", str(run.resolve()), network, device, str(threads), str(Path.cwd()), *plugins]
    return Worker(arguments, "eager", "--no-eager leaves it out")


def program_worker(path: Path, threads: int, batch: int | None) -> Worker:
    """Return an exported program (`.pt2`) in PyTorch. Raises EnvironmentProblem where PyTorch is not installed."""
    if not eager_available():
        raise EnvironmentProblem(
            f"{path} runs in PyTorch, which is not installed here; measure the network's ONNX file, or: pip install 'bmtas[host]'"
        )
    arguments = ["program", str(path.resolve()), str(threads), str(batch or 0)]
    return Worker(arguments, "program", "export it again, or leave it out")


def eager_available() -> bool:
    """Whether PyTorch is installed here; found out without importing it."""
    return importlib.util.find_spec("torch") is not None

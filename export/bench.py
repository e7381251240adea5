"""`bmtas bench`: latency of exported networks in their runtimes, and of PyTorch eager beside them where it is installed.

This process never imports torch: eager runs in a worker of its own, one inference at a time, when it is its turn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import BuildError, UsageError
from export.predict import open_artefact
from export.stopwatch import Timed, measure, ratio, summarise, timed

SCHEMA_VERSION = 1


class EagerCandidate:
    """A trained network of a run in PyTorch eager, in a worker process."""

    def __init__(self, run: Path, network: str, provider: str, threads: int) -> None:
        """Start the worker and wait until it has loaded the network. Raises BuildError if it does not come up."""
        device = "cpu" if provider == "cpu" else "cuda"  # the hardware that ONNX Runtime was asked to use
        command = [sys.executable, "-m", "export.eager_worker", str(run.resolve()), network, device, str(threads)]
        # `-m` looks in the working directory first, and a user's folder may hold an export.py of her own.
        home = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(  # noqa: S603 -- our own module, arguments passed as a list
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home
        )
        self.about = self._read()

    def __call__(self) -> float:
        """Let the worker run once; return the ms that it measured. Raises BuildError if it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading tells what happened
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        return float(self._read()["ms"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BuildError(f"the PyTorch eager worker ended with code {self._process.wait()}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BuildError(f"PyTorch eager cannot be measured: {answer['error']}; --no-eager leaves it out")
        return answer

    def __enter__(self) -> EagerCandidate:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def eager_available() -> bool:
    """Whether PyTorch is installed here; found out without importing it."""
    return importlib.util.find_spec("torch") is not None


def bench(
    files: dict[str, Path],
    *,
    eager: dict[str, tuple[Path, str]],
    provider: str,
    threads: int,
    samples: int,
    warmup: int,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure all candidates in turn and return the content of `bench.json`.

    `files` maps a network's name to its exported file or folder; `eager` maps the names that PyTorch runs too to (run folder, network).
    """
    if samples < 1 or warmup < 0:
        raise UsageError(f"found {samples} samples and {warmup} warm-up rounds; at least 1 and 0 are needed")
    with ExitStack() as stack:
        candidates: dict[str, Timed] = {}
        about: dict[str, dict[str, Any]] = {}
        for name, path in files.items():
            session = open_artefact(path, provider, threads)
            key = f"{name}/{session.runtime.split()[0]}"
            # The input is the same noise every time.
            candidates[key] = timed(partial(session, session.image_spec.noise()))
            about[key] = {
                "network": name,
                "runtime": session.runtime,
                "provider": session.provider,
                "input_shape": list(session.image_spec.shape),
                "precision": session.metadata().get("precision", "fp32"),
                "tasks": list(session.outputs),
                "costs": session.metadata().get("costs"),
            }
        for name, (run, network) in eager.items():
            worker = stack.enter_context(EagerCandidate(run, network, provider, threads))
            candidates[f"{name}/eager"] = worker
            about[f"{name}/eager"] = {"network": name, "precision": "fp32", **worker.about}
        latencies = measure(candidates, samples=samples, warmup=warmup, tick=tick)
    results = [{**about[key], **summarise(values), "latencies_ms": values} for key, values in latencies.items()]
    ratios = {
        name: ratio(latencies[f"{name}/eager"], latencies[f"{name}/onnxruntime"]) for name in eager if name in files
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device(),
        "threads": threads,
        "warmup": warmup,
        "results": results,
        "eager_over_onnxruntime": ratios,
    }


def device() -> dict[str, Any]:
    """Return what identifies this machine; what it does not tell is None."""
    model = None
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": model or platform.processor() or None,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }

"""Runs a network in PyTorch for `bmtas bench`: one line in, one inference, one line with its time out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bmtas.device import pick_device
from bmtas.errors import BmtasError
from bmtas.plugins import load_plugin
from bmtas.runs import Run
from bmtas.training import load_network
from export.bench.phases import Phases
from export.program import ProgramSession

Answers = Iterator[dict[str, Any]]


def serve(answers: Callable[[], Answers]) -> None:
    """Answer lines on standard input until it is closed; an expected failure is answered as `error`."""
    # The answers have standard output for themselves; what anybody else prints goes to standard error.
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        for answer in answers():
            told.write(json.dumps(answer) + "\n")
    except BmtasError as problem:
        told.write(json.dumps({"error": str(problem)}) + "\n")


def network(run: Run, name: str, device: str, threads: int, folder: Path, plugins: Sequence[Path]) -> Answers:
    """Yield what a trained network in eager is, then the time of one inference for each line on standard input.

    `plugins` are Python files of the user's own that are run first, in the `folder` in which the command was started.
    """
    _use(threads)
    os.chdir(folder)
    for plugin in plugins:
        load_plugin(plugin)
    config = run.config()
    target = pick_device(device)
    loaded = load_network(config, run.architecture(name), run.require_trained(name)).to(target)
    image = torch.rand(1, 3, *config.deploy_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    yield {
        "runtime": f"eager torch {torch.__version__}",
        "provider": device,
        "input_shape": list(image.shape),
        "tasks": [task.name for task in config.task_list()],
        "unavailable": "measured for exported files alone",
    }
    with torch.inference_mode():
        for _ in sys.stdin:
            start = time.perf_counter_ns()
            host_to_host(loaded, image, target)
            yield {"ms": (time.perf_counter_ns() - start) / 1e6}


def host_to_host(
    loaded: Callable[[torch.Tensor], dict[str, torch.Tensor]], image: torch.Tensor, target: torch.device
) -> dict[str, torch.Tensor]:
    """Return the raw outputs in host memory for an image in host memory; copying them back waits until the device is done."""
    return {name: raw.cpu() for name, raw in loaded(image.to(target)).items()}


def program(path: Path, threads: int, batch: int) -> Answers:
    """Yield what an exported program is, then the times of one inference for each line on standard input."""
    _use(threads)
    session = ProgramSession(path)
    metadata = session.metadata()
    phases = Phases(lambda image, _: session(image), session.image_spec, metadata, batch or None)
    yield {
        "runtime": session.runtime,
        "provider": session.provider,
        "input_shape": list(phases.shape),
        "precision": metadata.get("precision", "fp32"),
        "tasks": session.outputs,
        "costs": metadata.get("costs"),
        "preprocessing": phases.preprocessing,
        "postprocessing": phases.postprocessing,
        "unavailable": phases.unavailable,
    }
    for _ in sys.stdin:
        compute = phases()
        yield {"ms": compute, "end_to_end_ms": phases.end_to_end_ms[-1] if phases.end_to_end_ms else None}


def _use(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    if sys.argv[1] == "network":
        folder, *own = map(Path, sys.argv[6:])
        serve(lambda: network(Run(Path(sys.argv[2])), sys.argv[3], sys.argv[4], int(sys.argv[5]), folder, own))
    else:
        serve(lambda: program(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))

"""Runs a trained network in PyTorch eager for `bmtas bench`: one line in, one inference, one line with its time out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bmtas.device import pick_device
from bmtas.errors import BmtasError
from bmtas.runs import Run
from bmtas.train import load_network


def serve(run: Run, network_name: str, device: str, threads: int) -> None:
    """Answer lines on standard input until it is closed; an expected failure is answered as `error`."""
    # The answers have standard output for themselves; what anybody else prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        for answer in _answers(run, network_name, device, threads):
            answers.write(json.dumps(answer) + "\n")
    except BmtasError as problem:
        answers.write(json.dumps({"error": str(problem)}) + "\n")


def _answers(run: Run, network_name: str, device: str, threads: int) -> Iterator[dict[str, Any]]:
    """Yield what the worker is, then the time of one inference for each line on standard input."""
    if threads:
        torch.set_num_threads(threads)
    config = run.config()
    target = pick_device(device)
    network = load_network(config, run.architecture(network_name), run.require_trained(network_name)).to(target)
    image = (torch.rand(1, 3, *config.deploy_size, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(target)
    yield {"runtime": f"eager torch {torch.__version__}", "provider": device, "input_shape": list(image.shape)}
    with torch.inference_mode():
        for _ in sys.stdin:
            start = time.perf_counter_ns()
            network(image)
            if target.type == "cuda":
                torch.cuda.synchronize()
            yield {"ms": (time.perf_counter_ns() - start) / 1e6}


if __name__ == "__main__":
    serve(Run(Path(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4]))

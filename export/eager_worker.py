"""Runs a trained network in PyTorch eager for `bmtas bench`: one line in, one inference, one line with its time out."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from bmtas.runs import Run
from bmtas.train import load_network


def serve(run: Run, network_name: str, threads: int) -> None:
    """Answer lines on standard input until it is closed."""
    # The answers have standard output for themselves; what anybody else prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if threads:
        torch.set_num_threads(threads)
    config = run.config()
    network = load_network(config, run.architecture(network_name), run.require_trained(network_name))
    image = torch.rand(1, 3, *config.deploy_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    about = {"runtime": f"eager torch {torch.__version__}", "provider": "cpu", "input_shape": list(image.shape)}
    answers.write(json.dumps(about) + "\n")
    with torch.inference_mode():
        for _ in sys.stdin:
            start = time.perf_counter_ns()
            network(image)
            answers.write(json.dumps({"ms": (time.perf_counter_ns() - start) / 1e6}) + "\n")


if __name__ == "__main__":
    serve(Run(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]))

"""One process of a short search with the paper's rates; the first one writes what the architecture has come to.

[torchrun --standalone --nproc-per-node 2] search_worker.py OUT ESTIMATOR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from bmtas.config import PRESETS, Preset
from bmtas.methods.branched.finder import branched_search, probabilities_after
from bmtas.parallel import How, join_processes
from bmtas.planning import Request, plan_search
from bmtas.progress import Silent
from bmtas.schedule import ARCH, WEIGHTS

PAPER = PRESETS[Preset.PAPER].search
SETTINGS = {
    "batch_size": 8,
    "warmup_steps": 2,
    "weight_steps": 2,
    "weight_steps_per_cycle": 1,
    "arch_steps_per_cycle": 4,
    "optimiser": PAPER.optimiser,
    "learning_rate": PAPER.learning_rate,
    "arch_learning_rate": PAPER.arch_learning_rate,
    "resource_steps": 0,
}


def main(out: Path, estimator: str) -> None:
    # An untrained network with batch normalisation enlarges a difference in the last digit a million times within a step.
    torch.set_default_dtype(torch.float64)
    request = Request(
        data="planted",
        backbone="tiny",
        search_overrides={**SETTINGS, "estimator": estimator},
    )
    plan = plan_search(request)
    how = How(join_processes("cpu"))
    search = branched_search(plan, how)
    split = {name: search.batches[name].indices.tolist() for name in (ARCH, WEIGHTS)}
    probabilities = probabilities_after(search.run(out.parent / f"{out.stem}-run", None, Silent()))
    if how.parallel.first:
        content = {"probabilities": probabilities.tolist(), "split": split, "processes": how.parallel.size}
        out.write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

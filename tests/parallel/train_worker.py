"""One process of a short training in float64; the first one leaves its weights in the folder OUT.

[torchrun --standalone --nproc-per-node 2] train_worker.py OUT PARTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bmtas.architecture import BranchedArchitecture
from bmtas.data.planted import planted_groupings
from bmtas.parallel import How, join_processes
from bmtas.planning import Request, plan_search
from bmtas.progress import Silent
from bmtas.training import Training


def main(out: Path, parts: int) -> None:
    torch.set_default_dtype(torch.float64)
    settings = {"batch_size": 8, "steps": 4, "accumulate": parts}
    plan = plan_search(Request(data="planted", backbone="tiny", train_overrides=settings))
    names = tuple(task.name for task in plan.config.task_list())
    tree = BranchedArchitecture(backbone="tiny", tasks=names, groupings=planted_groupings(6))
    Training(plan.config, tree, plan.dataset, out, How(join_processes("cpu"))).run(Silent())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""How much of a search iteration the resource term takes: eight tasks (Omniglot), the exact expected cost and its gradient.

    python benchmarks/resource_term_share.py [--data FOLDER] [--backbone mobilenet_v2] [--size 96x96] [--batch 4] [--rounds 5]
        [--out docs/resource_term.md]

An iteration is one architecture step of the branched search. In each round an iteration is timed, and then what the resource term alone
takes in one: expected cost of 18 layers over the subsets of 8 tasks, the multiplier, and the gradient. Data: Omniglot, which is no part of
the repository; `--data planted` runs on generated data with four tasks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from _study import markdown

from bmtas.data.source import open_dataset
from bmtas.files import write_text
from bmtas.methods.branched.finder import branched_search
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Silent
from bmtas.schedule import ARCH

OMNIGLOT = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "omniglot"


def main() -> None:
    """Time both and write the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(OMNIGLOT))
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", default="96x96")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    overrides = {"batch_size": options.batch, "warmup_steps": 0, "resource_steps": 0}
    overrides |= {"arch_steps_per_cycle": options.rounds + 1, "weight_steps": 1, "weight_steps_per_cycle": 1}
    plan = plan_search(
        Request(
            data=options.data,
            tasks=[task.name for task in open_dataset(options.data).tasks],
            backbone=options.backbone,
            size=(height, width),
            no_resizing=True,
            search_overrides=overrides,
        )
    )
    search = branched_search(plan, How.alone("cpu"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        state = search._begin(None, checkpoint, Silent())
        assert search.steps[0].phase == ARCH
        search._take(0, state, checkpoint)  # warm
        for round_number in range(options.rounds):
            begun = time.perf_counter()
            search._take(round_number + 1, state, checkpoint)
            iteration = time.perf_counter() - begun
            begun = time.perf_counter()
            term = state.resource_term(state.relaxed.expected(), 1.0, {})
            term.backward()  # type: ignore[no-untyped-call]
            rows.append((iteration, time.perf_counter() - begun))
    for batches in search.batches.values():
        batches.close()
    shares = [alone / whole for whole, alone in rows]
    tasks = len(plan.config.tasks)
    text = markdown(
        [
            "tasks",
            "subsets",
            "layers",
            "batch",
            "iteration, ms",
            "resource term, ms",
            "share, median",
            "share, largest",
        ],
        [
            [
                str(tasks),
                str(2**tasks - 1),
                str(len(plan.table.layers)),
                f"{options.batch}, {options.size}",
                f"{1000 * statistics.median(whole for whole, _ in rows):.0f}",
                f"{1000 * statistics.median(alone for _, alone in rows):.2f}",
                f"{statistics.median(shares):.3%}",
                f"{max(shares):.3%}",
            ]
        ],
    )
    head = f"`python benchmarks/resource_term_share.py --rounds {options.rounds}` ({options.backbone}, {torch.get_num_threads()} threads):\n\n"
    print(text)
    if options.out is not None:
        write_text(options.out, f"# The resource term's share of an iteration\n\n{head}{text}\n")


if __name__ == "__main__":
    main()

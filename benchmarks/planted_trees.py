"""Is the planted tree the best one within its cost? Trains it and others of the same cost on the data set `planted`.

All start from random weights, take the same steps on the same images, and are measured on the same validation images.
Prints each tree's cost and its validation loss, the sum over the four tasks of the mean absolute difference between
components of unit vectors; means over the seeds, with the smallest and the largest.

    python benchmarks/planted_trees.py [--seeds 0-4] [--steps 600] [--batch 8] [--rate 0.01]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _planted import fit, seeds_of, validation_losses

from bmtas.architecture import Architecture, BranchedArchitecture, Grouping
from bmtas.data.planted import PLANTED_PAIRS, TASKS, Planted, planted_groupings
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.profile import build_table
from costs.table import CostTable
from costs.units import Resource

BACKBONE = get_backbone("tiny")
NAMES = tuple(task.name for task in TASKS)
ALL: Grouping = (NAMES,)
EACH: Grouping = tuple((name,) for name in NAMES)
CROSSED: Grouping = (("a1", "b1"), ("a2", "b2"))
THREE_AND_ONE: Grouping = (("a1", "a2", "b1"), ("b2",))
ONE_PAIR: Grouping = (("a1",), ("a2",), ("b1", "b2"))
TREES: dict[str, tuple[Grouping, ...]] = {
    "planted": planted_groupings(BACKBONE.layers),
    "crossed pairs": (ALL,) * 3 + (CROSSED,) * 3,
    "three and one": (ALL,) * 3 + (THREE_AND_ONE,) * 3,
    "pairs late, then three": (ALL,) * 4 + (PLANTED_PAIRS, ONE_PAIR),
    "each alone at the end": (ALL,) * 5 + (EACH,),
    "all shared": (ALL,) * 6,
    "only stem shared": (EACH,) * 6,
}
"""The planted tree, four others of the same cost, the cheapest one and the dearest one."""


def train(architecture: Architecture, data: Planted, *, seed: int, steps: int, batch: int, rate: float) -> GraphNetwork:
    """Return the network of `architecture`, trained from random weights by AdamW for `steps` steps on all tasks."""
    torch.manual_seed(seed)
    network = build_network(architecture, TASKS)
    channels_last(network)
    fit(network, data, seed=seed, steps=steps, batch=batch, rate=rate)
    return network


def madds(table: CostTable, architecture: Architecture) -> float:
    """Return the multiply-adds of a tree."""
    groupings = [[list(block) for block in grouping] for grouping in architecture.task_indices]
    return table.architecture_cost(groupings, Resource.MADDS)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="first-last, or one")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads win nothing at this size
    data = Planted()
    table = build_table(BACKBONE, TASKS, data.size)
    results: dict[str, list[float]] = {}
    print("tree                    MMAdds  loss: mean   least   most")
    for name, groupings in TREES.items():
        architecture = BranchedArchitecture(backbone=BACKBONE.name, tasks=NAMES, groupings=groupings)
        results[name] = []
        for seed in seeds_of(options.seeds):
            network = train(architecture, data, seed=seed, steps=options.steps, batch=options.batch, rate=options.rate)
            results[name].append(sum(validation_losses(network, data).values()))
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n")
        sums = results[name]
        print(
            f"{name:23s} {madds(table, architecture) / 1e6:6.3f}  {np.mean(sums):10.3f}  {min(sums):6.3f}  {max(sums):5.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

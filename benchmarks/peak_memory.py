"""How far the cost table's peak memory is above what networks take: the table bounds it by numbers of groups alone.

Builds random trees of one backbone without weights, traces their activations, and prints by how many percent the table's
figure is above: the mean and the greatest over the trees, and for the tree whose tasks all part in the last layer. Trees
that share all layers, or only the stem, and separate networks are exact, which is printed too.

    python benchmarks/peak_memory.py [--trees 100] [--size 512x512]
"""

from __future__ import annotations

import argparse
import random
import statistics

import torch

from bmtas.architecture import Architecture, BranchedArchitecture, Grouping
from bmtas.memory import BYTES_PER_MIB, peak_activations
from bmtas.networks.backbone import known_backbones
from bmtas.networks.network import build_network
from bmtas.profile import build_table, generic_tasks
from bmtas.tasks import TASK_SETS, Task
from costs.table import CostTable
from costs.units import Resource

MIB = Resource.PEAK_MEMORY_MIB
TASKS: dict[str, tuple[Task, ...]] = {
    **TASK_SETS,
    "8 generic tasks": generic_tasks(8),
    "14 generic tasks": generic_tasks(14),
}


def draw_tree(rng: random.Random, backbone: str, names: tuple[str, ...], layers: int) -> Architecture:
    """Return a tree in which each block parts in each layer with one probability, drawn for the tree."""
    chance = rng.choice([0.03, 0.1, 0.3])
    blocks, groupings = [list(names)], list[Grouping]()
    for _ in range(layers):
        parted = []
        for block in blocks:
            rng.shuffle(block)
            cut = rng.randrange(1, len(block)) if len(block) > 1 and rng.random() < chance else len(block)
            parted += [part for part in (block[:cut], block[cut:]) if part]
        blocks = parted
        groupings.append(tuple(tuple(block) for block in blocks))
    return BranchedArchitecture(backbone=backbone, tasks=names, groupings=tuple(groupings))


def excess(table: CostTable, architecture: Architecture, tasks: tuple[Task, ...]) -> float:
    """Return by how many percent the table's figure is above what the network takes. Raises ValueError if it is below."""
    with torch.device("meta"):  # no weights are needed
        peak = peak_activations(build_network(architecture, tasks), [torch.empty(1, 3, *table.input_size)])
    stated = table.separate_total(MIB)
    if architecture.shared_stem:
        stated = table.architecture_cost(architecture.task_indices, MIB)
    if stated < peak / BYTES_PER_MIB:
        raise ValueError(f"{architecture} takes {peak / BYTES_PER_MIB} MiB, the table says {stated}")
    return 100 * (stated * BYTES_PER_MIB / peak - 1)


def main() -> None:
    """Print one line per backbone and set of tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--size", default="512x512")
    arguments = parser.parse_args()
    height, width = (int(part) for part in arguments.size.split("x"))
    print(f"above the traced network, percent; {arguments.trees} trees, {height}x{width}")
    print(f"{'':32}{'shared':>8}{'split':>8}{'separate':>10}{'mean':>8}{'most':>8}{'part last':>11}")
    for backbone in known_backbones().values():
        for name, tasks in TASKS.items():
            table = build_table(backbone, tasks, (height, width))
            names = tuple(task.name for task in tasks)
            together, apart = (names,), tuple((task,) for task in names)
            tree = BranchedArchitecture(backbone=backbone.name, tasks=names, groupings=(together,) * backbone.layers)
            split = BranchedArchitecture(backbone=backbone.name, tasks=names, groupings=(apart,) * backbone.layers)
            last = BranchedArchitecture(backbone=backbone.name, tasks=names, groupings=(*tree.groupings[:-1], apart))
            separate = BranchedArchitecture.separate(backbone.name, names, backbone.layers)
            exact = [excess(table, architecture, tasks) for architecture in (tree, split, separate)]
            rng = random.Random(0)
            found = [
                excess(table, draw_tree(rng, backbone.name, names, backbone.layers), tasks)
                for _ in range(arguments.trees)
            ]
            print(
                f"{backbone.name + ', ' + name:32}{exact[0]:8.1f}{exact[1]:8.1f}{exact[2]:10.1f}"
                f"{statistics.fmean(found):8.1f}{max(found):8.1f}{excess(table, last, tasks):11.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

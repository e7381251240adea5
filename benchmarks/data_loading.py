"""Do images come as fast as they can, and as fast as a step needs them? One thread against the loader's threads, in turn.

    python benchmarks/data_loading.py [--data scenes] [--size 512x512] [--batch 16] [--batches 4] [--rounds 3]

Loads and augments batches as a search does (random scales and mirroring, nothing kept in memory), once image by image and
once with the threads of `bmtas.data.batches`. Prints images per second of both, and the ratio with its range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from bmtas.config import PRESETS, Preset
from bmtas.data import batches as loading
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batches, Loader
from bmtas.data.source import open_with_tasks


def images_per_second(arguments: argparse.Namespace, threads: int, first: int) -> float:
    """Return the rate at which `threads` threads make the batches from number `first` on."""
    dataset, tasks = open_with_tasks(arguments.data, None)
    loader = Loader(dataset, "train", tasks, tuple(int(side) for side in arguments.size.split("x")))
    loader._room = 0  # every image is decoded or drawn anew, as in a data set that does not fit the memory
    before = loading._workers
    loading._workers = lambda: threads
    try:
        scales = PRESETS[Preset.PAPER].search.scales
        made = Batches(loader, range(loader.count), arguments.batch, 0, Augmentation(scales=scales))
    finally:
        loading._workers = before
    start = time.perf_counter()
    for iteration in range(first, first + arguments.batches):
        made[iteration]
    seconds = time.perf_counter() - start
    made.close()
    return arguments.batch * arguments.batches / seconds


def main() -> None:
    """Measure both sides in turn and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    threads = loading._workers()
    one, many = [], []
    for turn in range(arguments.rounds):
        one.append(images_per_second(arguments, 1, turn * arguments.batches))
        many.append(images_per_second(arguments, threads, turn * arguments.batches))
    ratios = sorted(b / a for a, b in zip(one, many, strict=True))
    print(
        f"{arguments.data} at {arguments.size}, {os.cpu_count()} cores: one thread {statistics.median(one):.1f} images/s, "
        f"{threads} threads {statistics.median(many):.1f} images/s, {statistics.median(ratios):.2f} times as many "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()

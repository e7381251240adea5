"""Every way of sharing on the same data, at equal budgets: the four searches, the fixed sharing networks, and trees by chance.

    python benchmarks/methods_table.py [--data scenes] [--low 2GMAdds] [--high 5GMAdds] [--seeds 0] [--folder runs/methods]
        [--docs docs] [--name methods_scenes] [--dry-run]

Does nothing but start the commands that a user would type, which it prints (`--dry-run` prints them and stops): for every seed, method and
budget `bmtas search`, `bmtas train`, `bmtas export` (which proves every file) and `bmtas bench`, then `bmtas compare` over all of them, which
writes NAME.md and NAME.png into the folder `--docs`. The low budget is for methods that share computations (branched, automtl, dynamic, and vanilla
and random trees), the high one for those that join whole networks (mtl-nas, cross-stitch, sluice, nddr-cnn), beside which the branched search
stands again. Commands that have ended are not started again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ccp_table import Cell as Asked
from ccp_table import Record, start

SCALE = "--search-size 64x64 --train-size 64x64 --train-steps 150"
FIRST = ("single", "shared")
LOW = ("vanilla", "random", "branched", "automtl", "dynamic")
HIGH = ("branched", "mtl-nas", "cross-stitch", "sluice", "nddr-cnn")
FREE = ("mtan",)
_SEARCHES = ("branched", "mtl-nas", "automtl", "dynamic")


class Cell(Asked):
    """One run: a method at a budget (empty for those without) with a seed."""

    def search(self, options: argparse.Namespace) -> list[str]:
        """Return the command that finds the architecture."""
        words = shlex.split(options.options)
        if self.method not in _SEARCHES:  # the images' size in a search means nothing to the others
            pairs = zip(words[::2], words[1::2], strict=True)
            words = [word for pair in pairs if pair[0] != "--search-size" for word in pair]
        budget = ["--budget", self.budget] if self.budget else []
        named = ["--method", self.method, *budget, "--seed", str(self.seed)]
        return ["bmtas", "search", "--data", str(options.data), *named, *words, "--runs", str(options.folder)]

    def after(self, options: argparse.Namespace, run: str) -> list[list[str]]:
        """Return the commands that follow."""
        where = ["--run", run, "--runs", str(options.folder)]
        bench = ["bmtas", "bench", "--samples", "30", "--warmup", "3", "--threads", str(options.threads)]
        return [["bmtas", "train", *where, "--quiet"], ["bmtas", "export", *where, "--quiet"], [*bench, *where]]


def cells(options: argparse.Namespace) -> tuple[list[Cell], list[Cell]]:
    """Return those to run first, and those after them, which take over the first ones' networks where they need them."""
    first = [Cell(method, "", seed) for seed in options.seeds for method in FIRST]
    then = []
    for seed in options.seeds:
        then += [Cell(method, options.low, seed) for method in LOW] + [
            Cell(method, options.high, seed) for method in HIGH
        ]
        then += [Cell(method, "", seed) for method in FREE]
    return first, then


def finish(cell: Cell, options: argparse.Namespace, record: Record) -> None:
    """Search, train, export and measure one cell, as far as that has not been done."""
    begun = time.monotonic()
    if cell.key not in record.runs:
        record.keep(cell.key, json.loads(start([*cell.search(options), "--json", "-"], options.threads))["run"])
    for command in cell.after(options, Path(record.runs[cell.key]).name):
        key = f"{cell.key} {command[1]}"
        if key not in record.trained:
            start(command, options.threads)
            record.keep(key)
            print(f"{key}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Run all cells and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--low", default="2GMAdds")
    parser.add_argument("--high", default="5GMAdds")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--options", default=SCALE, help="of `bmtas search`")
    parser.add_argument("--jobs", type=int, default=2, help="so many commands at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each command")
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--name", default="methods_scenes")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    first, then = cells(options)
    compare = [
        "bmtas",
        "compare",
        "--runs",
        str(options.folder),
        "--markdown",
        str(options.docs / f"{options.name}.md"),
    ]
    compare += ["--picture", str(options.docs / f"{options.name}.png")]
    if options.dry_run:
        for cell in (*first, *then):
            print(" && ".join(shlex.join(command) for command in (cell.search(options), *cell.after(options, "RUN"))))
        print(shlex.join(compare))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    record = Record(options.folder)
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for phase in (first, then):
            list(pool.map(lambda cell: finish(cell, options, record), phase))
    start(compare, options.threads)
    print((options.docs / f"{options.name}.md").read_text())


if __name__ == "__main__":
    main()

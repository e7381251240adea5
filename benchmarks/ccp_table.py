"""The paper's comparison on real photographs: single, shared, vanilla, random, FAFS, BMN and the search at two budgets.

    python benchmarks/ccp_table.py [--budgets 2.7GMAdds,3.4GMAdds] [--seeds 0,1,2] [--jobs 2] [--folder runs/ccp-table]
        [--docs docs] [--dry-run]

Does nothing but start the commands that a user would type, which it prints (`--dry-run` prints them and stops): for every
seed, method and budget `bmtas search --method ...` and `bmtas train` (after a search also `bmtas train --init search`), then `bmtas
compare` over all of them, which writes ccp_table.md and ccp_pareto.png into the folder `--docs`. Commands that have ended are not started again, so the same command
goes on where it was stopped. Data: ccp, which is no part of the repository.

By default at a reduced scale that two cores finish in about an hour; `--options` and `--train-options` give other ones, such as
`--options="--preset standard"` on a machine with a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _study import interval, markdown, with_spread

from bmtas.files import write_json

CCP = Path(__file__).resolve().parent.parent / "examples" / "ccp.yaml"
SCALE = "--search-size 96x64 --train-size 96x64 --warmup-steps 150 --search-steps 60 --train-steps 150"
FIRST = ("single", "shared")
"""Trained before the others, which take over these networks' weights where they need them."""
THEN = ("vanilla", "random", "fafs", "bmn", "branched")
_OF_A_SEARCH = ("--search-size", "--warmup-steps", "--search-steps")


@dataclass(frozen=True)
class Cell:
    """One run: a method at a budget (empty for those without) with a seed."""

    method: str
    budget: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the cell in the record of what has ended."""
        return f"{self.method} {self.budget} {self.seed}".replace("  ", " ")

    @property
    def trainings(self) -> tuple[list[str], ...]:
        """Further options of `bmtas train`, for each time that it is called."""
        return ([], ["--init", "search"]) if self.method == "branched" else ([],)

    def search(self, options: argparse.Namespace) -> list[str]:
        """Return the command that finds the architecture."""
        words = shlex.split(options.options)
        if self.method != "branched":  # options of a search mean nothing to the others
            pairs = zip(words[::2], words[1::2], strict=True)
            words = [word for pair in pairs if pair[0] not in _OF_A_SEARCH for word in pair]
        budget = ["--budget", self.budget] if self.budget else []
        named = ["--method", self.method, *budget, "--seed", str(self.seed)]
        return ["bmtas", "search", "--data", str(options.data), *named, *words, "--runs", str(options.folder)]


def cells(options: argparse.Namespace) -> tuple[list[Cell], list[Cell]]:
    """Return those to run first, and those after them."""
    first = [Cell(method, "", seed) for seed in options.seeds for method in FIRST]
    then = [Cell(m, budget, seed) for seed in options.seeds for budget in options.budgets for m in THEN]
    return first, then


class Record:
    """Which cell is which run, and which have ended, in a file of the folder."""

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / "cells.json", threading.Lock()
        self.runs: dict[str, str] = json.loads(self._path.read_text())["runs"] if self._path.exists() else {}
        self.trained: list[str] = json.loads(self._path.read_text())["trained"] if self._path.exists() else []

    def keep(self, key: str, run: str | None = None) -> None:
        """Note the run of a cell, or without one that it has been trained."""
        with self._lock:
            if run is None:
                self.trained.append(key)
            else:
                self.runs[key] = run
            write_json(self._path, {"schema_version": 1, "runs": self.runs, "trained": self.trained})


def start(command: list[str], threads: int) -> str:
    """Run a command of the command line and return what it prints. Exits with its message if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    program = [str(Path(sys.executable).with_name("bmtas")), *command[1:]]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def finish(cell: Cell, options: argparse.Namespace, record: Record) -> None:
    """Search and train one cell, as far as that has not been done."""
    begun = time.monotonic()
    if cell.key not in record.runs:
        record.keep(cell.key, json.loads(start([*cell.search(options), "--json", "-"], options.threads))["run"])
    for extra in cell.trainings:
        key = " ".join([cell.key, *extra])
        if key not in record.trained:
            start(["bmtas", "train", "--run", record.runs[cell.key], *extra, "--quiet"], options.threads)
            record.keep(key)
            print(f"{key}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def differences(networks: list[dict[str, Any]], budgets: list[str]) -> str:
    """Return how much better the networks found are than the others, in points of Delta_m, taken seed by seed."""
    gains: dict[tuple[str, str], dict[int, float]] = {}
    for network in networks:
        key = (network["label"], "".join(network["budgets"]))
        gains.setdefault(key, {})[network["seed"]] = network["delta_m_percent"]
    lines = []
    for budget in budgets:
        found = gains["branched", budget]
        for (label, of), others in gains.items():
            if of in ("", budget) and label not in ("branched", "single") and set(found) == set(others):
                gaps = [found[seed] - others[seed] for seed in sorted(found)]
                wins = sum(gap > 0 for gap in gaps)
                lines.append(
                    [budget, f"branched - {label}", with_spread(gaps, 2, "+"), interval(gaps), f"{wins} of {len(gaps)}"]
                )
    return markdown(["budget", "difference", "points of Delta_m", "95 % interval of the mean", "seeds ahead"], lines)


def main() -> None:
    """Run all cells and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CCP)
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=["2.7GMAdds", "3.4GMAdds"])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument(
        "--options", default=SCALE, help="of `bmtas search`; those of a search are left out for baselines"
    )
    parser.add_argument("--jobs", type=int, default=2, help="so many commands at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each command")
    parser.add_argument("--folder", type=Path, default=Path("runs/ccp-table"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    first, then = cells(options)
    compare = ["bmtas", "compare", "--runs", str(options.folder), "--markdown", str(options.docs / "ccp_table.md")]
    compare += ["--picture", str(options.docs / "ccp_pareto.png")]
    if options.dry_run:
        for cell in (*first, *then):
            trained = "".join(
                " && " + shlex.join(["bmtas", "train", *e, "--runs", str(options.folder)]) for e in cell.trainings
            )
            print(shlex.join(cell.search(options)) + trained)
        print(shlex.join(compare))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    record = Record(options.folder)
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for phase in (first, then):
            list(pool.map(lambda cell: finish(cell, options, record), phase))
    start(compare, options.threads)
    print((options.docs / "ccp_table.md").read_text())
    everything = start(["bmtas", "compare", "--runs", str(options.folder), "--json", "-"], options.threads)
    print(differences(json.loads(everything)["networks"], options.budgets))


if __name__ == "__main__":
    main()

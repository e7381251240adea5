"""What a run of the quick preset takes: time and memory of every command, each in a process of its own.

    python benchmarks/quick_preset.py [--budget 9GMAdds] [--network found]

Prints a table in Markdown: seconds on the clock, seconds of all cores together, and the most memory that the process held.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

BMTAS = Path(sys.executable).with_name("bmtas")
_LOOK_EVERY_S = 0.05


def measured(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return its seconds on the clock, its seconds of computing, and its peak memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched, computing, most = psutil.Process(process.pid), 0.0, 0
    while process.poll() is None:
        try:
            times = watched.cpu_times()
            computing = times.user + times.system
            most = max(most, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(_LOOK_EVERY_S)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, computing, most


def main() -> None:
    """Run the commands one after the other and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="9GMAdds")
    parser.add_argument("--network", default="found")
    arguments = parser.parse_args()
    network = ["--network", arguments.network]
    print(f"{os.cpu_count()} cores")
    print("| command | time on the clock | computing | peak memory |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as runs:
        for command in (
            ["search", "--budget", arguments.budget],
            ["train", *network],
            ["export", *network],
            ["bench", *network, "--samples", "20", "--warmup", "3"],
        ):
            clock, computing, most = measured([str(BMTAS), *command, "--runs", runs, "--quiet"])
            shown = " ".join(["bmtas", *command])
            print(f"| `{shown}` | {clock:.0f} s | {computing:.0f} s | {most / 2**30:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()

"""Searches of networks that are no trees, by two processes that torchrun starts: they end, and all of it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUDGETS = {"mtl-nas": "6MMAdds", "automtl": "4.5MMAdds", "dynamic": "6MMAdds"}


@pytest.mark.slow
@pytest.mark.parametrize("method", BUDGETS)
def test_two_processes_end_with_one_network_within_the_budget(method: str, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    launch = [
        str(programs / "torchrun"),
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        str(programs / "bmtas"),
    ]
    scale = ["--warmup-steps", "1", "--search-steps", "1", "--train-steps", "2", "--batch-size", "8"]
    command = ["search", "--data", "planted", "--backbone", "tiny", "--method", method, "--budget", BUDGETS[method]]
    done = subprocess.run(
        [*launch, *command, *scale, "--device", "cpu", "--runs", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.iterdir()
    found = json.loads((run / "architecture.json").read_text())
    assert found["measured"]["madds"] <= float(BUDGETS[method].removesuffix("MMAdds")) * 1e6

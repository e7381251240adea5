"""Many-task classification, the eight alphabets of Omniglot, with all four searches: found within the budget, trained, exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmtas.data.source import open_dataset

OMNIGLOT = Path(__file__).resolve().parents[3] / "shared" / "data" / "omniglot"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="Omniglot, which is no part of the repository, is not there"),
]


@pytest.mark.parametrize("method", ["branched", "mtl-nas", "automtl", "dynamic"])
def test_eight_tasks_go_through_all_commands(method: str, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    names = [task.name for task in open_dataset(str(OMNIGLOT)).tasks]
    assert len(names) == 8
    data = ("--data", OMNIGLOT, "--tasks", ",".join(names), "--backbone", "tiny", "--size", "32x32")
    steps = ("--warmup-steps", 2, "--search-steps", 2, "--train-steps", 2, "--batch-size", 16)
    result = bmtas("search", *data, *steps, "--method", method, "--runs", tmp_path)
    assert result.code == 0, result.err
    (run,) = tmp_path.iterdir()
    found = json.loads((run / "architecture.json").read_text())
    budget = float(json.loads((run / "run.json").read_text())["budgets"][0].removesuffix("MMAdds")) * 1e6
    assert found["measured"]["madds"] == found["costs"]["madds"] <= budget
    for command in ("train", "export"):
        result = bmtas(command, "--runs", tmp_path)
        assert result.code == 0, result.err
    parity = json.loads((run / "networks/found/parity.json").read_text())
    assert parity
    metrics = json.loads((run / "networks/found/metrics.json").read_text())["tasks"]
    assert set(metrics) == set(names)

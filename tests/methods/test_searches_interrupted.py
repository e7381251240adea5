"""Searches of networks that are no trees: stopped in the middle, they go on and end with the same network."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bmtas.training
from bmtas.checkpoint import load_checkpoint
from bmtas.config import Method
from bmtas.interrupt import Interrupted
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Progress, Silent
from bmtas.runs import Run
from bmtas.workflow import run_search

BUDGETS = {Method.MTL_NAS: "6MMAdds", Method.AUTOMTL: "4.5MMAdds", Method.DYNAMIC: "6MMAdds"}
SHORT = {"batch_size": 4, "warmup_steps": 2, "weight_steps": 2, "weight_steps_per_cycle": 1, "arch_steps_per_cycle": 1}


@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(
    "method", [Method.DYNAMIC, *(pytest.param(m, marks=pytest.mark.slow) for m in BUDGETS if m is not Method.DYNAMIC)]
)
def test_the_same_command_ends_with_the_same_network(
    method: Method,
    stop: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signal_after: Callable[..., Progress],
) -> None:
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)
    plan = plan_search(
        Request(
            data="planted",
            backbone="tiny",
            method=method,
            budgets=(BUDGETS[method],),
            own={"init": "backbone"} if method is Method.MTL_NAS else {},
            search_overrides=SHORT,
            train_overrides={"steps": 2, "batch_size": 4},
        )
    )
    straight = run_search(plan, tmp_path / "straight", Silent(), How.alone("cpu"))

    with pytest.raises(Interrupted):
        run_search(plan, tmp_path / "stopped", signal_after(stop, signal.SIGTERM), How.alone("cpu"))
    (folder,) = (tmp_path / "stopped").iterdir()
    assert not Run(folder).architecture_path.exists()
    resumed = run_search(plan, tmp_path / "stopped", Silent(), How.alone("cpu"))

    assert resumed.path == folder
    assert json.loads(resumed.architecture_path.read_text()) == json.loads(straight.architecture_path.read_text())
    ours, theirs = (load_checkpoint(run.search_folder / "checkpoint.pt") for run in (resumed, straight))
    assert ours["done"] == theirs["done"] == 6
    for kind in ("network", "architecture"):
        assert ours[kind].keys() == theirs[kind].keys()
        for name, value in ours[kind].items():
            assert torch.equal(value, theirs[kind][name]), name

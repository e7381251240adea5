"""FAFS and BMN train before they have a tree: stopped in the middle of it, they go on and end with the same one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import bmtas.training
from bmtas.checkpoint import load_checkpoint
from bmtas.config import Method
from bmtas.interrupt import Interrupted
from bmtas.methods import bmn, fafs
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Progress, Silent
from bmtas.runs import Run
from bmtas.workflow import run_search

STEPS = 5


class Collected(Silent):
    """Keeps what is said, and which phases begin where."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: dict[str, int] = {}

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.phases[name] = done

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("method", "network"), [("fafs", "shared"), ("bmn", "separate")])
def test_the_same_command_goes_on_with_the_training_and_ends_with_the_same_tree(
    method: str,
    network: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signal_after: Callable[..., Progress],
) -> None:
    monkeypatch.setattr(fafs, "MOST_SAMPLES", 16)
    monkeypatch.setattr(bmn, "IMAGES", 6)
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)
    overrides = {"steps": STEPS, "batch_size": 4}
    plan = plan_search(
        Request(
            data="planted", backbone="tiny", method=Method(method), budgets=("4.3MMAdds",), train_overrides=overrides
        )
    )
    straight = run_search(plan, tmp_path / "straight", Silent(), How.alone("cpu"))

    with pytest.raises(Interrupted):
        run_search(plan, tmp_path / "stopped", signal_after(2, signal.SIGTERM), How.alone("cpu"))
    (folder,) = (tmp_path / "stopped").iterdir()
    run = Run(folder)
    done = load_checkpoint(run.network(network) / "checkpoint.pt")["done"]
    assert 0 < done < STEPS
    assert not run.architecture_path.exists()

    heard = Collected()
    assert run_search(plan, tmp_path / "stopped", heard, How.alone("cpu")) == run
    assert heard.phases[f"train {network}"] == done
    assert f"continuing at step {done} of {STEPS}" in heard.notes
    assert not any("begins from the start" in note for note in heard.notes)
    for name in ("architecture.json", f"networks/{network}/history.jsonl"):
        assert (run.path / name).read_bytes() == (straight.path / name).read_bytes(), name

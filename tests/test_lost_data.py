"""A file that goes missing in the middle of a run: what was learned is kept, and the same run ends as if nothing had been."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bmtas.data.batches
from bmtas.checkpoint import load_checkpoint
from bmtas.errors import LostDataError
from bmtas.interrupt import Interrupted
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Progress, Silent
from bmtas.run_training import train_network
from bmtas.runs import SHARED, Run, create_run
from bmtas.workflow import run_search

SIDE = 32
STEPS = 24
NAMES = [f"{i}" for i in range(8)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images to train on, in batches of two, each read anew every time it comes up."""
    monkeypatch.setattr(bmtas.data.batches, "_CACHE_BYTES", 0)
    rng = np.random.default_rng(0)
    for folder in ("images", "depth", "edge"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in NAMES:
        pictures = {
            "images": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
            "depth": rng.integers(500, 4000, (SIDE, SIDE), dtype=np.uint16),
            "edge": (rng.random((SIDE, SIDE)) < 0.1).astype(np.uint8),
        }
        for folder, picture in pictures.items():
            Image.fromarray(picture).save(tmp_path / "data" / folder / f"{name}.png")
    manifest = tmp_path / "data" / "own.yaml"
    manifest.write_text(
        "images: {folder: images}\n"
        "tasks:\n"
        "  depth: {kind: depth, folder: depth, scale: 0.001}\n"
        "  edge: {kind: edge, folder: edge}\n"
        f"splits: {{train: {NAMES[:6]}, val: {NAMES[6:]}}}\n",
        encoding="utf-8",
    )
    return manifest


class LosingAfter(Silent):
    """Takes a file away when `steps` steps of the phase `phase` are done."""

    def __init__(self, path: Path, phase: str, steps: int) -> None:
        self.path, self.aside = path, path.with_name("aside")
        self.phase, self.left, self.current = phase, steps, ""

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.current = name

    def advance(self, **values: float) -> None:
        self.left -= self.current == self.phase
        if self.left == 0 and self.path.exists():
            self.path.rename(self.aside)

    def restore(self) -> None:
        self.aside.rename(self.path)


def request(data: Path, seed: int = 0) -> Request:
    return Request(
        data=str(data),
        backbone="tiny",
        search_overrides={"batch_size": 2, "warmup_steps": 4, "weight_steps": 8, "weight_steps_per_cycle": 4},
        train_overrides={"batch_size": 2, "steps": STEPS},
        seed=seed,
    )


def new_run(data: Path, root: Path) -> Run:
    plan = plan_search(request(data))
    return create_run(root, "shared", plan.config, plan.table)


def train(run: Run, progress: Progress) -> Path:
    assert train_network(run, SHARED, progress, How.alone("cpu")) is None
    return run.network(SHARED)


def search(data: Path, root: Path, progress: Progress) -> Run:
    return run_search(plan_search(request(data, seed=1)), root, progress, How.alone("cpu"))


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("file", ["images/2.png", "edge/5.png"])
def test_training_goes_on_after_the_file_is_back_as_if_nothing_had_been(data: Path, tmp_path: Path, file: str) -> None:
    straight, run = new_run(data, tmp_path / "straight"), new_run(data, tmp_path / "lost")
    train(straight, Silent())
    losing = LosingAfter(data.parent / file, "train shared", 3)
    with pytest.raises(LostDataError, match=re.escape(str(data.parent / file))) as caught:
        train(run, losing)
    assert caught.value.exit_code == 2
    folder = run.network(SHARED)
    done = load_checkpoint(folder / "checkpoint.pt")["done"]
    # The image comes up in every three steps; two batches beyond the third were on their way.
    assert 3 <= done < 9
    assert steps_of(folder) == list(range(done))
    assert f"Everything up to step {done} is saved" in str(caught.value)
    assert "the same command goes on from there" in str(caught.value)
    assert not (folder / "weights.pt").exists()

    losing.restore()
    train(run, Silent())
    ours, theirs = (load_checkpoint(r.network(SHARED) / "weights.pt")["network"] for r in (run, straight))
    assert equal(ours, theirs)
    assert steps_of(folder) == list(range(STEPS))
    assert (folder / "history.jsonl").read_bytes() == (straight.network(SHARED) / "history.jsonl").read_bytes()


def test_a_search_goes_on_after_the_file_is_back_as_if_nothing_had_been(data: Path, tmp_path: Path) -> None:
    straight = search(data, tmp_path / "straight", Silent())
    total = len(steps_of(straight.search_folder))
    losing = LosingAfter(data.parent / "depth/3.png", "search", 2)
    with pytest.raises(LostDataError, match=re.escape(str(losing.path))) as caught:
        search(data, tmp_path / "lost", losing)
    (folder,) = (tmp_path / "lost").iterdir()
    run = Run(folder)
    done = load_checkpoint(run.search_folder / "checkpoint.pt")["done"]
    assert 2 <= done < total
    assert steps_of(run.search_folder) == list(range(done))
    assert f"Everything up to step {done} is saved" in str(caught.value)
    assert not run.architecture_path.exists()

    losing.restore()
    assert search(data, tmp_path / "lost", Silent()) == run
    assert steps_of(run.search_folder) == list(range(total))
    for name in ("architecture.json", "search/probabilities.json", "search/history.jsonl"):
        assert (run.path / name).read_bytes() == (straight.path / name).read_bytes(), name
    ours, theirs = (load_checkpoint(r.search_folder / "checkpoint.pt") for r in (run, straight))
    assert equal(ours["network"], theirs["network"])
    assert torch.equal(ours["architecture"]["logits"], theirs["architecture"]["logits"])


def test_a_file_that_is_lost_at_once_leaves_the_checkpoint_as_it_was(
    data: Path, tmp_path: Path, signal_after: type[Silent]
) -> None:
    run = new_run(data, tmp_path / "runs")
    with pytest.raises(Interrupted):
        train(run, signal_after(2))  # type: ignore[call-arg]
    before = (run.network(SHARED) / "checkpoint.pt").read_bytes()
    done = load_checkpoint(run.network(SHARED) / "checkpoint.pt")["done"]
    image = data.parent / "images"
    for name in NAMES[1:6]:  # whichever the next batch holds; their sizes stay, their pixels do not
        path = image / f"{name}.png"
        content = path.read_bytes()
        path.write_bytes(content[:64] + bytes(len(content) - 64))
    with pytest.raises(LostDataError, match=r"What was saved before stands as it was: put the file back as it was"):
        train(run, Silent())
    assert done > 0
    assert (run.network(SHARED) / "checkpoint.pt").read_bytes() == before

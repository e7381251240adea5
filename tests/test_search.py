"""The search: its schedule by hand, and that no interruption changes what it finds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from bmtas.checkpoint import load_checkpoint
from bmtas.config import PRESETS, Preset
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import DivergedError, UsageError
from bmtas.interrupt import Interrupted
from bmtas.progress import Progress, Silent
from bmtas.search import Search, schedule
from bmtas.workflow import Plan, Request, plan_search

TASKS = ("semseg", "depth")


class InterruptAfter(Silent):
    """Sends this process Ctrl-C once `steps` steps of this process are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, **values: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


class Collected(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps = 0

    def advance(self, **values: float) -> None:
        self.steps += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclasses.dataclass(frozen=True)
class FarAway:
    """A data set whose depths are so large that no loss is finite."""

    inner: Dataset

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def tasks(self):  # type: ignore[no-untyped-def]
        return self.inner.tasks

    @property
    def size(self) -> tuple[int, int]:
        return self.inner.size

    def ids(self, split: str) -> Sequence[str]:
        return self.inner.ids(split)

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        sample = self.inner.load(split, index, size=size, tasks=tasks)
        labels = dict(sample.labels)
        labels["depth"] = np.full_like(labels["depth"], 3e38)  # two of them are more than a float32 holds
        return Sample(sample.id, sample.image, labels)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads, and lose much to them on a machine that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan() -> Plan:
    overrides = {
        "batch_size": 2,
        "warmup_steps": 1,
        "weight_steps": 2,
        "weight_steps_per_cycle": 1,
        "arch_steps_per_cycle": 1,
        "resource_steps": 1,
    }
    return plan_search(Request(data="scenes", tasks=list(TASKS), size=(32, 32), search_overrides=overrides, seed=3))


def search(plan: Plan, folder: Path, progress: Progress, dataset: Dataset | None = None) -> np.ndarray:
    return Search(plan.config, dataset or plan.dataset, plan.table, plan.budgets, "cpu").run(folder, None, progress)


@pytest.fixture(scope="module")
def straight(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """Probabilities and folder of a search that nothing has interrupted: 5 steps."""
    folder = tmp_path_factory.mktemp("straight")
    return search(plan, folder, Silent()), folder


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_the_schedule_is_warm_up_then_cycles() -> None:
    settings = PRESETS[Preset.QUICK].search.model_copy(
        update={"warmup_steps": 2, "weight_steps": 5, "weight_steps_per_cycle": 3, "arch_steps_per_cycle": 2}
    )
    told = [(step.phase, step.index, step.first) for step in schedule(settings)]
    assert told == [
        ("warm-up", 0, True),
        ("warm-up", 1, False),
        ("architecture", 0, True),
        ("architecture", 1, False),
        ("weights", 0, True),
        ("weights", 1, False),
        ("weights", 2, False),
        ("architecture", 2, True),
        ("architecture", 3, False),
        ("weights", 3, True),
        ("weights", 4, False),
    ]


def test_probabilities_are_distributions_over_candidates(straight: tuple[np.ndarray, Path]) -> None:
    probabilities, folder = straight
    assert probabilities.shape == (18, 2, 2)  # layers, tasks, candidates
    assert probabilities.sum(axis=-1) == pytest.approx(1)
    assert probabilities.std() > 0  # something was learnt
    assert steps_of(folder) == [0, 1, 2, 3, 4]


def test_an_interrupted_search_finds_bit_for_bit_the_same(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    for already in (0, 2):  # stopped after steps 2 and 4: the signal comes after one step, the next one is the last
        with pytest.raises(Interrupted, match="the same command goes on") as caught:
            search(plan, tmp_path, InterruptAfter(1))
        assert caught.value.exit_code == 130
        assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == already + 2
    progress = Collected()
    probabilities = search(plan, tmp_path, progress)
    assert progress.notes == ["continuing at step 4 of 5"]
    assert progress.steps == 1
    assert np.array_equal(probabilities, straight[0])
    assert (tmp_path / "history.jsonl").read_text() == (straight[1] / "history.jsonl").read_text()
    ours, theirs = (load_checkpoint(folder / "checkpoint.pt")["supergraph"] for folder in (tmp_path, straight[1]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_lines_of_steps_after_the_last_checkpoint_are_written_once(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        search(plan, tmp_path, InterruptAfter(1))
    with (tmp_path / "history.jsonl").open("a") as file:  # as a kill leaves it between the lines and the checkpoint
        file.write('{"step": 2, "phase": "weights", "loss.depth": 1.0}\n{"step": 3, "pha')
    search(plan, tmp_path, Silent())
    assert (tmp_path / "history.jsonl").read_text() == (straight[1] / "history.jsonl").read_text()


def test_lines_without_any_checkpoint_are_written_once(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    """Killed before the first checkpoint was complete, or its file was deleted as the message advises."""
    shutil.copy(straight[1] / "history.jsonl", tmp_path)
    search(plan, tmp_path, Silent())
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]


def test_a_finished_search_gives_its_result_again_without_a_step(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    progress = Collected()
    assert np.array_equal(search(plan, tmp_path, progress), straight[0])
    assert progress.steps == 0


def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint_in_place(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        search(plan, tmp_path, InterruptAfter(1))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(DivergedError, match=r"step 2 .*'depth' is inf; .* stands in .*checkpoint\.pt"):
        search(plan, tmp_path, Silent(), FarAway(plan.dataset))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == 2
    assert steps_of(tmp_path) == [0, 1]


def test_a_checkpoint_is_not_promised_where_there_is_none(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 0 .*'depth' is inf; no checkpoint"):
        search(plan, tmp_path, Silent(), FarAway(plan.dataset))
    assert list(tmp_path.glob("*.pt")) == []


def test_a_checkpoint_of_a_longer_search_is_refused(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    shutil.copy(straight[1] / "checkpoint.pt", tmp_path)
    shorter = dataclasses.replace(
        plan,
        config=plan.config.model_copy(
            update={"search": plan.config.search.model_copy(update={"weight_steps": 1})}  # 3 steps in all
        ),
    )
    with pytest.raises(UsageError, match="at step 5 of a search of 3 steps"):
        search(shorter, tmp_path, Silent())

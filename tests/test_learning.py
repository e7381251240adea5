"""When a task counts as not learning: which steps are looked at, which losses count, and that a pause changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import bmtas.training
from bmtas.architecture import BranchedArchitecture
from bmtas.data.planted import TASKS, Planted
from bmtas.interrupt import Interrupted
from bmtas.learning import LearningWatch
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Progress, Silent

CONSTANTS = {"a": 1.0, "b": 2.0}
Losses = Callable[[int], Mapping[str, float]]


def told(watch: LearningWatch, losses: Losses, first: int = 1) -> dict[int, list[str]]:
    """Return what the watch says after each step at which it says something."""
    said = {done: watch.see(done, losses(done)) for done in range(first, watch.total + 1)}
    return {done: texts for done, texts in said.items() if texts}


def always(**losses: float) -> Losses:
    return lambda done: losses


@pytest.mark.parametrize(
    ("total", "looks"),
    [
        (1000, [250, 500, 1000]),
        (200, [50, 100, 200]),
        (199, [50, 100, 199]),  # 49.75 and 99.5, rounded
        (120, [60, 120]),  # after 30 steps nothing can be expected yet
        (60, [60]),
        (50, [50]),
        (49, []),
        (1, []),
    ],
)
def test_losses_are_looked_at_after_a_quarter_a_half_and_all_steps(total: int, looks: list[int]) -> None:
    found = told(LearningWatch(total, CONSTANTS), always(a=1.0, b=1.0))
    assert list(found) == looks
    for done, texts in found.items():
        (text,) = texts
        assert text.startswith(
            f"the task 'a' has not learned after {done} of {total} steps: its loss is 1, that of the best constant prediction 1."
        )


def test_every_task_is_told_of_that_does_not_learn() -> None:
    found = told(LearningWatch(50, CONSTANTS), always(a=1.5, b=2.0))
    assert [text.split("'")[1] for text in found[50]] == ["a", "b"]


@pytest.mark.parametrize(("loss", "learns"), [(0.979, True), (0.981, False), (3.0, False), (1e-6, True)])
def test_two_percent_below_the_constant_is_learning(loss: float, learns: bool) -> None:
    found = told(LearningWatch(100, CONSTANTS), always(a=loss, b=0.1))
    assert list(found) == ([] if learns else [50, 100])


def test_only_a_tenth_of_the_steps_before_a_look_counts() -> None:
    def late(done: int) -> Mapping[str, float]:
        """Below the constant in the tenths that are looked at, 151 to 250, 401 to 500 and 901 to 1000, and nowhere else."""
        return {"a": 0.5 if 151 <= done <= 250 or 401 <= done <= 500 or 901 <= done <= 1000 else 50.0, "b": 0.1}

    assert told(LearningWatch(1000, CONSTANTS), late) == {}

    def the_other_way_round(done: int) -> Mapping[str, float]:
        return {"a": 50.0 if late(done)["a"] == 0.5 else 0.5, "b": 0.1}

    found = told(LearningWatch(1000, CONSTANTS), the_other_way_round)
    assert list(found) == [250, 500, 1000]
    assert all("its loss is 50," in texts[0] for texts in found.values())


def test_losses_are_averaged_over_the_window() -> None:
    found = told(LearningWatch(100, CONSTANTS), lambda done: {"a": 0.4 if done % 2 else 1.8, "b": 0.1})
    assert all("its loss is 1.1," in texts[0] for texts in found.values())
    assert list(found) == [50, 100]


def test_what_falls_between_two_looks_is_told_of_once() -> None:
    found = told(LearningWatch(1000, CONSTANTS), lambda done: {"a": 1.0 if done <= 300 else 0.3, "b": 0.1})
    assert list(found) == [250]


def test_batches_without_labels_do_not_count() -> None:
    def seldom(done: int) -> Mapping[str, float]:
        return {"a": 1.2 if done % 5 == 0 else 0.0, "b": 0.1}  # as a mean over all batches, 0.24

    found = told(LearningWatch(100, CONSTANTS), seldom)
    assert list(found) == [50, 100]
    assert "its loss is 1.2," in found[50][0]
    assert told(LearningWatch(100, CONSTANTS), always(a=0.0, b=0.1)) == {}


def test_a_task_without_a_label_is_told_as_that() -> None:
    found = told(LearningWatch(60, {"a": math.nan, "b": 2.0}), always(a=0.0, b=0.1))
    assert list(found) == [60]
    assert found[60] == [
        "the task 'a' had no label in the images that were looked at; bmtas data check says what there is"
    ]


@pytest.mark.parametrize("stopped", [0, 30, 44, 45, 46, 49, 50, 51, 93, 99])
def test_a_pause_changes_no_word(stopped: int) -> None:
    def losses(done: int) -> Mapping[str, float]:
        return {"a": 0.9 + (done % 7) / 20, "b": 2 + done / 100}

    straight = told(LearningWatch(100, CONSTANTS), losses)
    assert list(straight) == [50, 100]
    first = LearningWatch(100, CONSTANTS)
    before = {done: texts for done in range(1, stopped + 1) if (texts := first.see(done, losses(done)))}
    state = json.loads(json.dumps(first.state_dict()))
    # A training that goes on does not look for the constants again.
    second = LearningWatch(100, dict.fromkeys(CONSTANTS, math.nan))
    second.load_state_dict(state)
    assert {**before, **told(second, losses, stopped + 1)} == straight


def test_a_state_of_other_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its tasks are \['a', 'b'\], not \['c'\]"):
        LearningWatch(100, {"c": 1.0}).load_state_dict(LearningWatch(100, CONSTANTS).state_dict())


class Heard(Silent):
    """Keeps what is said of learning."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes += [text] if "has not learned" in text else []


def train(folder: Path, progress: Progress, rate: float) -> None:
    overrides = {"batch_size": 2, "steps": 50, "learning_rate": rate}
    config = plan_search(Request(data="planted", backbone="tiny", train_overrides=overrides)).config
    shared = BranchedArchitecture.shared("tiny", [task.name for task in TASKS], 6)
    bmtas.training.Training(config, shared, Planted(), folder, How.alone("cpu")).run(progress)


def test_a_training_at_a_rate_of_almost_nothing_is_told_of_and_a_pause_changes_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_after: Callable[..., Progress]
) -> None:
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 8)
    straight, resumed = Heard(), Heard()
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    train(tmp_path / "straight", straight, 1e-9)
    assert [text.split("'")[1] for text in straight.notes] == [task.name for task in TASKS]
    assert all("after 50 of 50 steps" in text for text in straight.notes)
    with pytest.raises(Interrupted):
        train(tmp_path / "resumed", signal_after(47), 1e-9)  # within the window of the look after 50 steps
    train(tmp_path / "resumed", resumed, 1e-9)
    assert resumed.notes == straight.notes

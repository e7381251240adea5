"""What a plan makes of presets and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bmtas.config import PRESETS, Preset
from bmtas.errors import UsageError
from bmtas.planning import Request, _whole_passes, plan_search


def test_a_cycle_of_the_paper_is_one_pass_over_both_parts() -> None:
    settings = PRESETS[Preset.PAPER].search
    # PASCAL-Context: 20 % of 4998 images are 1000 (999.6, rounded), 62 batches of 16; 3998 others are 249.
    assert _whole_passes(settings, 4998, 0) == settings
    # NYUD-v2 in batches of 8: 159 of 795 images are 19 of them, the other 636 are 79.
    nyud = _whole_passes(settings.model_copy(update={"batch_size": 8}), 795, 0)
    assert (nyud.arch_steps_per_cycle, nyud.weight_steps_per_cycle) == (19, 79)
    few = _whole_passes(settings, 10, 0)
    assert (few.arch_steps_per_cycle, few.weight_steps_per_cycle) == (1, 1)


def test_the_preset_decides_whether_cycles_are_passes() -> None:
    common = {"data": "planted", "backbone": "tiny", "weights": "none", "budgets": ("4MMAdds",)}
    paper = plan_search(Request(**common, preset=Preset.PAPER))
    images = len(paper.dataset.ids("train"))
    assert paper.config.search.weight_steps_per_cycle == round(0.8 * images) // 16
    assert plan_search(Request(**common)).config.search.weight_steps_per_cycle == 3


def test_a_size_that_generated_images_cannot_have_is_refused_before_anything_begins() -> None:
    common = {"data": "planted", "backbone": "tiny", "budgets": ("4MMAdds",)}
    with pytest.raises(UsageError, match="each side needs at least 32"):
        plan_search(Request(**common, train_size=(16, 16)))
    with pytest.raises(UsageError, match="each side needs at least 32"):
        plan_search(Request(**common, search_size=(16, 16)))


def test_a_path_that_is_not_there_is_called_that() -> None:
    with pytest.raises(UsageError, match="there is no file or folder /nowhere/PASCAL_MT"):
        plan_search(Request(data="/nowhere/PASCAL_MT"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"search_overrides": {"weight_steps": 0}}, r"--search-steps 0: input should be greater than or equal to 1"),
        ({"search_overrides": {"learning_rate": -1.0}}, r"--search-learning-rate -1\.0"),
        ({"train_overrides": {"learning_rate": -1.0}}, r"--train-learning-rate -1\.0"),
        ({"train_overrides": {"precision": "fp8"}}, r"--precision 'fp8': input should be 'fp32' or 'bf16'"),
    ],
)
def test_messages_name_the_options(overrides: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_search(Request(data="planted", backbone="tiny", budgets=("4MMAdds",), **overrides))


def test_weights_that_cannot_be_had_are_refused_before_anything_begins(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="nobody has published ImageNet weights of tiny"):
        plan_search(Request(data="planted", backbone="tiny", weights="imagenet"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"mine\.pt' is neither"):
        plan_search(Request(data="planted", backbone="tiny", weights="~/mine.pt"))
    (tmp_path / "mine.pt").touch()
    plan = plan_search(Request(data="planted", backbone="tiny", weights="~/mine.pt"))
    assert plan.config.weights == str(tmp_path / "mine.pt")
    assert not any("imagenet" in note for note in plan_search(Request(data="planted", backbone="tiny")).notes)

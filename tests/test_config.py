"""Settings: sizes by hand, presets as the paper has them, rules that hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bmtas.config import PRESETS, Preset, SearchSettings, TrainSettings, reduced_size
from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [
        ((512, 512), None, (512, 512)),
        ((96, 96), 96 * 96, (96, 96)),
        ((90, 101), 96 * 96, (90, 101)),  # few enough pixels already: left alone
        ((512, 512), 96 * 96, (96, 96)),
        # 98304 pixels to 9216: scale 0.3062; 117.6 is nearest to 7 x 16, 78.4 to 5 x 16
        ((384, 256), 96 * 96, (112, 80)),
        # 307200 pixels to 16384: scale 0.2309; 110.9 is nearest to 7 x 16, 147.8 to 9 x 16
        ((480, 640), 128 * 128, (112, 144)),
        # 4096 pixels to 16: scale 1/16; the sides stop at two multiples
        ((64, 64), 16, (32, 32)),
    ],
)
def test_sizes_are_reduced_to_multiples_of_the_stride(
    size: tuple[int, int], pixels: int | None, expected: tuple[int, int]
) -> None:
    assert reduced_size(size, pixels) == expected


@given(size=st.tuples(st.integers(32, 3000), st.integers(32, 3000)), pixels=st.integers(32 * 32, 512 * 512))
def test_a_reduced_size_is_never_larger_on_either_side(size: tuple[int, int], pixels: int) -> None:
    reduced = reduced_size(size, pixels)
    assert min(reduced) >= 32
    assert reduced[0] <= size[0]
    assert reduced[1] <= size[1]
    if size[0] * size[1] > pixels:
        assert reduced[0] % 16 == 0
        assert reduced[1] % 16 == 0
    else:
        assert reduced == size


def test_the_paper_preset_is_the_paper() -> None:
    """Appendix A of the paper, by heart."""
    paper = PRESETS[Preset.PAPER]
    search = paper.search
    assert (search.warmup_steps, search.weight_steps, paper.train.steps) == (2000, 40000, 40000)
    assert (search.learning_rate, search.arch_learning_rate) == (0.005, 0.01)
    assert (search.batch_size, search.arch_share) == (16, 0.2)
    assert (search.temperature_start, search.temperature_end) == (5.0, 0.1)
    assert (search.optimiser.value, search.resource_steps) == ("sgd", 0)
    assert paper.train.divide_rate_by_sharing
    assert paper.weights == "imagenet"


def test_only_the_quick_preset_needs_no_download() -> None:
    assert {p: PRESETS[p].weights for p in Preset} == {"quick": "none", "standard": "imagenet", "paper": "imagenet"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 1),  # batch normalisation of one value is nothing
        ("weight_steps", 0),
        ("warmup_steps", -1),
        ("arch_share", 0.0),
        ("arch_share", 1.0),
        ("learning_rate", 0.0),
        ("temperature_end", 0.0),
        ("stepps", 3),
    ],
)
def test_search_settings_out_of_range_are_refused(field: str, value: float) -> None:
    good = PRESETS[Preset.QUICK].search.model_dump()
    with pytest.raises(ValidationError, match=field):
        SearchSettings.model_validate({**good, field: value})


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("steps", 0), ("evaluate_images", 0)])
def test_train_settings_out_of_range_are_refused(field: str, value: int) -> None:
    good = PRESETS[Preset.QUICK].train.model_dump()
    with pytest.raises(ValidationError, match=field):
        TrainSettings.model_validate({**good, field: value})


@pytest.mark.parametrize("change", [{"loss_weight": None}, {"classes": 3}, {"kind": [1]}, {"name": True}, {"more": 1}])
def test_a_task_of_another_form_is_named(change: dict[str, object]) -> None:
    stored = {**Task(name="depth", kind=TaskKind.DEPTH).to_json(), **change}
    with pytest.raises(UsageError, match=r"is no task|unknown task kind"):
        Task.from_json(stored)

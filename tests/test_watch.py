"""When a loss counts as exploded: by hand."""

from __future__ import annotations

import pytest

from bmtas.watch import ExplodedError, LossWatch


def begun(*first: float) -> LossWatch:
    watch = LossWatch(["a", "b"])
    for loss in first:
        watch.see({"a": loss, "b": 1.0})
    return watch


def test_five_steps_far_above_the_greatest_of_the_first_ten() -> None:
    watch = begun(*[2.0, 1.0] * 5)
    for _ in range(4):
        watch.see({"a": 201.0, "b": 1.0})
        assert watch.suspicious
    with pytest.raises(
        ExplodedError, match=r"'a' has exploded: it is 201, 100 times the 2 that its first 10 steps had at most, for 5"
    ):
        watch.see({"a": 201.0, "b": 1.0})


def test_it_may_come_down_again() -> None:
    watch = begun(*[2.0] * 10)
    for loss in [201.0] * 4 + [199.0] + [201.0] * 4 + [1.0]:
        watch.see({"a": loss, "b": 1.0})
    assert not watch.suspicious


def test_one_step_beyond_all_sense_is_enough() -> None:
    with pytest.raises(ExplodedError, match=r"'b' has exploded.*in one step"):
        begun(*[1.0] * 10).see({"a": 1.0, "b": 10001.0})


def test_batches_without_labels_and_the_first_ten_steps_prove_nothing() -> None:
    watch = begun(*[0.0] * 50, *[1.0] * 9)
    assert not watch.suspicious
    watch.see({"a": 3.0, "b": 1.0})  # the tenth that is not 0
    watch.see({"a": 300.0, "b": 1.0})
    assert not watch.suspicious
    watch.see({"a": 301.0, "b": 1.0})
    assert watch.suspicious
    assert watch.told() == "the loss of 'a' is more than 100 times that of its first 10 steps"


def test_a_balanced_loss_may_be_a_thousand_times_as_large_where_there_is_more_to_see() -> None:
    # 2 p (1 - p) log 2 for a share p of positives: 0.000014 of 0.00001, 0.28 of 0.29.
    watch = begun(*[1.4e-5] * 10)
    for _ in range(20):
        watch.see({"a": 0.28, "b": 1.0})
    assert not watch.suspicious


def test_the_state_goes_on_where_it_was() -> None:
    watch, other = begun(*[2.0] * 10), LossWatch(["a", "b"])
    for _ in range(4):
        watch.see({"a": 300.0, "b": 1.0})
    other.load_state_dict(watch.state_dict())
    with pytest.raises(ExplodedError):
        other.see({"a": 300.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"of \['a', 'b'\], not of \['a', 'c'\]"):
        LossWatch(["a", "c"]).load_state_dict(watch.state_dict())

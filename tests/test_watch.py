"""When a loss counts as exploded: by hand."""

from __future__ import annotations

import pytest

from bmtas.watch import ExplodedError, LossWatch


def begun(*first: float) -> LossWatch:
    watch = LossWatch(["a", "b"])
    for loss in first:
        watch.see({"a": loss, "b": 1.0})
    return watch


def test_five_steps_far_above_the_median_of_the_first_ten() -> None:
    watch = begun(*[3.0, 1.0] * 5)  # median 2
    for _ in range(4):
        watch.see({"a": 201.0, "b": 1.0})
        assert watch.suspicious
    with pytest.raises(
        ExplodedError, match=r"'a' has exploded: it is 201, 100 times the 2 of its first 10 steps, for 5"
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
    watch.see({"a": 1e9, "b": 1.0})  # the tenth that is not 0: the median stays 1
    assert not watch.suspicious
    watch.see({"a": 101.0, "b": 1.0})
    assert watch.suspicious


def test_the_state_goes_on_where_it_was() -> None:
    watch, other = begun(*[2.0] * 10), LossWatch(["a", "b"])
    for _ in range(4):
        watch.see({"a": 300.0, "b": 1.0})
    other.load_state_dict(watch.state_dict())
    with pytest.raises(ExplodedError):
        other.see({"a": 300.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"of \['a', 'b'\], not of \['a', 'c'\]"):
        LossWatch(["a", "c"]).load_state_dict(watch.state_dict())

"""Frames at a pace, on a clock that only moves when somebody sleeps or works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from bmtas.errors import UsageError
from export.stopwatch import Paced, pace


class Bench:
    """A clock, and work that takes the ms given in turn; `slept` is what was slept."""

    def __init__(self, works_ms: Sequence[float], oversleep_ms: float = 0.0) -> None:
        self.now, self.oversleep = 100.0, oversleep_ms / 1000
        self.works: Iterator[float] = iter(works_ms)
        self.begun: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.oversleep

    def work(self) -> None:
        self.begun.append(self.now - 100.0)
        self.now += next(self.works) / 1000

    def paced(self, fps: float, frames: int, warmup: int = 0, window_s: float = 0.5) -> Paced:
        return pace(
            self.work, fps, frames=frames, warmup=warmup, window_s=window_s, clock=lambda: self.now, sleep=self.sleep
        )


def test_frames_begin_at_their_due_times_and_the_rest_is_slept() -> None:
    bench = Bench([30.0, 10.0, 20.0])
    found = bench.paced(fps=10, frames=3)
    assert bench.begun == pytest.approx([0.0, 0.1, 0.2])
    assert found.latencies_ms == pytest.approx([30.0, 10.0, 20.0])
    assert (found.misses, found.dropped) == (0, 0)


def test_waking_up_late_counts() -> None:
    found = Bench([30.0, 10.0], oversleep_ms=2.0).paced(fps=10, frames=2)
    assert found.latencies_ms == pytest.approx([30.0, 12.0])
    assert found.late_ms == pytest.approx([0.0, 2.0])


def test_a_missed_deadline_delays_the_next_frame_which_counts_from_its_due_time() -> None:
    bench = Bench([130.0, 40.0, 10.0])
    found = bench.paced(fps=10, frames=3)
    assert bench.begun == pytest.approx([0.0, 0.13, 0.2])
    assert found.latencies_ms == pytest.approx([130.0, 70.0, 10.0])  # the second was due at 100 ms
    assert found.late_ms == pytest.approx([0.0, 30.0, 0.0])
    assert (found.misses, found.dropped) == (1, 0)


def test_of_frames_that_are_overdue_the_newest_is_taken_and_the_others_are_dropped() -> None:
    bench = Bench([450.0, 20.0, 20.0])
    found = bench.paced(fps=10, frames=6)
    # Frames 1 to 4 come due meanwhile; frame 4 (due at 400) is begun at 450, frame 5 when it is due.
    assert bench.begun == pytest.approx([0.0, 0.45, 0.5])
    assert found.latencies_ms == pytest.approx([450.0, 70.0, 20.0])
    assert (found.misses, found.dropped) == (1, 3)
    assert len(found.latencies_ms) + found.dropped == 6


def test_frames_of_the_warm_up_do_not_count() -> None:
    found = Bench([5.0, 5.0, 450.0, 20.0, 20.0]).paced(fps=10, frames=5, warmup=2)
    assert found.latencies_ms == pytest.approx([450.0, 70.0])
    assert (found.misses, found.dropped) == (1, 3)
    # The warm-up's last frame takes until 350 ms: of frames 2 and 3, due meanwhile, 2 is dropped.
    late = Bench([5.0, 250.0, 20.0, 20.0]).paced(fps=10, frames=3, warmup=2)
    assert late.latencies_ms == pytest.approx([70.0, 20.0])
    assert late.dropped == 1


def test_windows_are_told_by_the_clock() -> None:
    found = Bench([1.0] * 20).paced(fps=10, frames=20, window_s=0.5)
    assert found.window_ends == (6, 11, 16)


@pytest.mark.parametrize(("fps", "frames"), [(0.0, 5), (-1.0, 5), (30.0, 0)])
def test_a_pace_that_is_none_is_refused(fps: float, frames: int) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        pace(lambda: None, fps, frames=frames)


def test_frames_are_left_out_with_their_windows() -> None:
    bench = Bench([30.0, 120.0, 20.0, 10.0, 40.0, 50.0])
    found = bench.paced(fps=10, frames=6, window_s=0.2)
    assert (found.misses, found.window_ends) == (1, (2, 5))
    # Frame 2 was due at 200 ms and began at 220 ms, when frame 1 had ended.
    kept = found.only([True, False, True, False, False, False])
    assert kept.latencies_ms == pytest.approx([30.0, 40.0])
    assert kept.late_ms == pytest.approx([0.0, 20.0])
    assert (kept.misses, kept.window_ends, kept.fps) == (0, (1, 2), 10)
    assert found.only([False, False, False, False, True, True]).window_ends == (1,)


def test_a_pace_that_is_no_number_is_refused() -> None:
    for fps in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="frames at"):
            pace(lambda: None, fps, frames=1)

"""One frame after another at a camera's pace, with the pauses in between that let a device's clocks fall. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bmtas.errors import UsageError
from export.stopwatch.timing import Clock


@dataclass(frozen=True)
class Paced:
    """Frames at a pace, in order. `latencies_ms` are from each frame's due time to its end, waiting and waking up included.

    `late_ms` is how long after its due time each was begun. A frame that ended after the next one was due has missed its deadline.
    `dropped` is how many frames were due and never begun, because when the one before ended a newer one was there. `window_ends`
    are the positions at which the windows of `window_s` ended.
    """

    fps: float
    latencies_ms: tuple[float, ...]
    late_ms: tuple[float, ...]
    window_ends: tuple[int, ...]
    dropped: int

    @property
    def misses(self) -> int:
        """How many of the frames that were begun missed their deadline."""
        return sum(latency > 1000 / self.fps for latency in self.latencies_ms)

    def only(self, kept: Sequence[bool]) -> Paced:
        """Return it with those frames alone for which `kept`, one value per frame, is true; windows without any are left out."""
        ends = dict.fromkeys(sum(kept[:end]) for end in self.window_ends)
        return replace(
            self,
            latencies_ms=tuple(ms for ms, keep in zip(self.latencies_ms, kept, strict=True) if keep),
            late_ms=tuple(ms for ms, keep in zip(self.late_ms, kept, strict=True) if keep),
            window_ends=tuple(end for end in ends if end > 0),
        )


def pace(
    run: Callable[[], object],
    fps: float,
    *,
    frames: int,
    warmup: int = 0,
    window_s: float = 0.5,
    tick: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Paced:
    """Call `run` once for each of `frames` due frames, 1/`fps` s apart, after `warmup` of them that do not count.

    As a camera's newest picture would be taken: a frame that is overdue when the one before ends is begun at once, of several the newest,
    and the older ones are dropped and counted. Dropped frames are among `frames`. Raises UsageError unless `fps` is above 0 and there is a frame.
    """
    if not 0 < fps < math.inf or frames < 1 or warmup < 0:
        raise UsageError(f"found {frames} frames at {fps:g} per second; both must be above 0")
    period = 1 / fps
    latencies, late, ends, dropped = list[float](), list[float](), list[int](), 0
    start = window = clock()
    index, total = 0, warmup + frames
    while index < total:
        due = start + index * period
        if (wait := due - clock()) > 0:
            sleep(wait)
        begun = clock()
        run()
        now = clock()
        counted = index >= warmup
        if counted:
            latencies.append((now - due) * 1000)
            late.append((begun - due) * 1000)
            if now - window >= window_s:
                ends.append(len(latencies))
                window = now
        else:
            window = now
        tick()
        newest = int((now - start) / period)
        following = min(max(index + 1, newest), total)
        dropped += max(0, following - max(index + 1, warmup))  # those of the warm-up do not count
        index = following
    return Paced(fps, tuple(latencies), tuple(late), tuple(ends), dropped)

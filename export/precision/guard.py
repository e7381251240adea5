"""Whether INT8 is kept: only if it is faster, beyond the noise, and every task's metric stays within the drop allowed.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task

DEFAULT_DROP = 0.01
"""Share of the FP32 metric that a task may lose where nothing else is said."""

_ROUNDING = 1e-9  # 0.5 and 0.495 are one per cent apart, in floating point a trifle more


@dataclass(frozen=True)
class Drop:
    """The share of its FP32 metric that each task may lose: `by_task`, or `default`."""

    default: float = DEFAULT_DROP
    by_task: Mapping[str, float] = field(default_factory=dict)

    def limit(self, task: str) -> float:
        """Return what `task` may lose: 0.01 is one per cent."""
        return self.by_task.get(task, self.default)

    def require_known(self, tasks: Sequence[Task]) -> None:
        """Raise UsageError if a limit is given for a task that is not among `tasks`."""
        for name in self.by_task:
            if name not in {task.name for task in tasks}:
                raise UsageError(f"--max-drop names the task {name!r}; {nearest(name, [task.name for task in tasks])}")


@dataclass(frozen=True)
class Decision:
    """Whether INT8 is kept, why or why not, and the numbers behind it; `forced` where it is kept against the reasons."""

    keep: bool
    forced: bool
    reasons: tuple[str, ...]
    speed: Mapping[str, float] | None
    drops: Mapping[str, float | None]
    limits: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON values; a drop that could not be computed is null, one without bound a text."""
        return {
            "keep": self.keep,
            "forced": self.forced,
            "reasons": list(self.reasons),
            "speed_ratio": None if self.speed is None else dict(self.speed),
            "drops": {t: "infinite" if d is not None and math.isinf(d) else d for t, d in self.drops.items()},
            "limits": dict(self.limits),
        }


def parse_max_drop(text: str) -> Drop:
    """Read `--max-drop`: `1%` for all tasks, `semseg=2%,depth=0.5%` for some, `1%,depth=2%` for both.

    Tasks that are not named may lose DEFAULT_DROP. Raises UsageError for anything else, a share without % or given twice included.
    """
    default: float | None = None
    by_task: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = (word.strip() for word in part.rpartition("="))
        drop = _share(share, text)
        if bool(equals) != bool(name) or name in by_task or (not equals and default is not None):
            raise UsageError(
                f"--max-drop {text!r}: {part.strip()!r} names no task, or gives again what was given before; "
                "write one share for all tasks, or TASK=SHARE once for each"
            )
        if equals:
            by_task[name] = drop
        else:
            default = drop
    return Drop(DEFAULT_DROP if default is None else default, by_task)


def _share(share: str, text: str) -> float:
    try:
        value = float(share.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not share.endswith("%") or not 0 <= value < math.inf:
        raise UsageError(
            f"--max-drop {text!r}: {share!r} is no percentage of the FP32 metric of at least 0; write 1% for one hundredth, "
            "or one per task: semseg=2%,depth=0.5%"
        )
    return value / 100


def drops(
    fp32: Mapping[str, float | None], int8: Mapping[str, float | None], tasks: Sequence[Task]
) -> dict[str, float | None]:
    """Return the share of its FP32 metric that each task loses in INT8: positive if it is worse, negative if better.

    None where either metric is missing, None, NaN or infinite. Where the FP32 metric is 0, 0 if INT8 is no worse, infinite
    if it is.
    """
    return {task.name: _drop(fp32.get(task.name), int8.get(task.name), task.higher_is_better) for task in tasks}


def _drop(before: float | None, after: float | None, higher_is_better: bool) -> float | None:
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return None
    lost = before - after if higher_is_better else after - before
    if before == 0:
        return math.inf if lost > 0 else 0.0
    return lost / abs(before)


def against(lost: Mapping[str, float | None], allowed: Drop) -> list[str]:
    """Return a sentence for each task that loses more than allowed, or cannot be judged. Raises UsageError if `lost` is empty."""
    if not lost:
        raise UsageError("INT8 cannot be judged: no task has a metric; give images with labels")
    return [reason for task, drop in lost.items() if (reason := _against(task, drop, allowed.limit(task)))]


def decide(
    speed: Mapping[str, float] | None, lost: Mapping[str, float | None], allowed: Drop, *, forced: bool = False
) -> Decision:
    """Return whether INT8 is kept: its speed ratio's lower quartile is above 1 and every task loses no more than allowed.

    `speed` is `export.stopwatch.ratio` of FP32 latencies over INT8 latencies (median, q1, q3), None where another machine will
    measure it; `lost` comes from `drops`. A task whose drop is None cannot be judged, so INT8 is not kept. `forced` keeps it whatever the numbers say; the reasons
    against it are still given. Raises UsageError if `lost` is empty.
    """
    contrary = against(lost, allowed)
    if speed is not None and not speed["q1"] > 1:
        contrary.insert(
            0,
            f"not reliably faster: {speed['median']:.2f} times as fast as FP32, lower quartile {speed['q1']:.2f} (must be above 1)",
        )
    faster = speed and f"{speed['median']:.2f} times as fast as FP32 (lower quartile {speed['q1']:.2f})"
    reasons = contrary or [
        faster or "its speed is measured where it runs",
        *(f"{task} {_change(drop or 0.0)} (may lose {100 * allowed.limit(task):.2f} %)" for task, drop in lost.items()),
    ]
    overridden = forced and bool(contrary)
    if overridden:
        reasons = ["kept because it was forced, although:", *contrary]
    limits = {task: allowed.limit(task) for task in lost}
    return Decision(not contrary or forced, overridden, tuple(reasons), speed, dict(lost), limits)


def _against(task: str, drop: float | None, limit: float) -> str | None:
    if drop is None:
        return f"{task} cannot be judged: its metric is missing or not a finite number"
    return (
        f"{task} loses {100 * drop:.2f} % of its metric (allowed {100 * limit:.2f} %)"
        if drop > limit + _ROUNDING
        else None
    )


def _change(drop: float) -> str:
    return f"{'loses' if drop > 0 else 'gains'} {abs(100 * drop):.2f} % of its metric"

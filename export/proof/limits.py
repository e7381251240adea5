"""How far an export may be from PyTorch: per precision and kind of task, each overridable per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, TaskKind

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Limit:
    """What one task's output must keep.

    `unit`: in the task's unit (at most, for an F-measure at least). `scaled`: the largest raw difference, relative to the
    task's largest output (absolute below 1); None where rounding decides it and the unit alone is asked for.
    """

    unit: float
    scaled: float | None


# Share of pixels that change class, degrees, relative difference, F-measure. FP32 differs by the order of summation alone;
# 16 bits by 2^-11 (fp16) and 2^-8 (bf16) in each value; of INT8 the task's own metric decides (`--max-drop`), and these keep
# only what is no longer the same network.
_UNITS: dict[str, tuple[float, float, float, float]] = {
    "fp32": (0.001, 0.05, 0.001, 0.999),
    "fp16": (0.01, 0.5, 0.01, 0.98),
    "bf16": (0.04, 3.0, 0.04, 0.93),
    "int8": (0.25, 15.0, 0.25, 0.6),
}
_SCALED = {"fp32": 1e-4}
ENGINE_SCALED = 1e-3
"""The raw FP32 limit on a GPU: convolutions sum in another order there; with TF32 off the sums stay in FP32."""


def limits_for(
    precision: str, tasks: Sequence[Task], overrides: Mapping[str, float] | None = None, scaled: float | None = None
) -> dict[str, Limit]:
    """Return the limits by task. `overrides` gives a task's limit in its unit, `scaled` the raw limit of all tasks.

    Raises UsageError for an unknown precision or task, or a number that cannot be a limit.
    """
    if precision not in _UNITS:
        raise UsageError(f"unknown precision {precision!r}; {nearest(precision, PRECISIONS)}")
    changed, angle, relative, f_measure = _UNITS[precision]
    by_kind = {
        TaskKind.SEGMENTATION: changed,
        TaskKind.CLASSIFICATION: changed,
        TaskKind.NORMALS: angle,
        TaskKind.DEPTH: relative,
        TaskKind.REGRESSION: relative,
        TaskKind.BINARY: f_measure,
        TaskKind.EDGE: f_measure,
    }
    raw = _SCALED.get(precision) if scaled is None else scaled
    limits = {task.name: Limit(by_kind[task.kind], raw) for task in tasks}
    for name, value in (overrides or {}).items():
        if name not in limits:
            raise UsageError(f"a limit is given for the task {name!r}; {nearest(name, limits)}")
        limits[name] = replace(limits[name], unit=value)
    for name, limit in limits.items():
        for number in (limit.unit, limit.scaled):
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise UsageError(f"the limit {number} of task {name!r} is no finite number of at least 0")
    return limits


def parse_tolerances(texts: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """Read `--tolerance`: `1e-4` is the raw limit of all tasks, `semseg=0.01` one task's limit in its unit.

    Raises UsageError for anything else.
    """
    scaled, overrides = None, {}
    for text in (part.strip() for entry in texts for part in entry.split(",")):
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(
                f"--tolerance {text!r}: expected a number such as 1e-4 (raw, for all tasks) or TASK=NUMBER (in the task's unit)"
            ) from None
        if equals:
            overrides[name.strip()] = value
        else:
            scaled = value
    return scaled, overrides

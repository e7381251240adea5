"""How far an export may be from PyTorch: per precision and kind of task, each overridable per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, TaskKind
from export.formats import require_precision


@dataclass(frozen=True)
class Limit:
    """What one task's output must keep.

    `unit`: in the task's unit (at most, for an F-measure at least). `scaled`: the largest raw difference, relative to the
    task's largest output (absolute below 1); None where rounding decides it and the unit alone is asked for. `probability`:
    of a binary or edge map, the mean absolute difference of the probabilities over all pixels; None for other kinds.
    """

    unit: float
    scaled: float | None
    probability: float | None = None


# Share of pixels that change class, degrees, relative difference, F-measure. FP32 differs by the order of summation alone;
# 16 bits by 2^-11 (fp16) and 2^-8 (bf16) in each value; of INT8 the task's own metric decides (`--max-drop`), and these keep
# only what is no longer the same network.
_UNITS: dict[str, tuple[float, float, float, float]] = {
    "fp32": (0.001, 0.05, 0.001, 0.999),
    "fp16": (0.01, 0.5, 0.01, 0.98),
    "bf16": (0.04, 3.0, 0.04, 0.93),
    "int8": (0.25, 15.0, 0.25, 0.6),
}
# An F-measure says nothing of a map without a positive pixel, and a mean over all pixels little of one with few: both must hold.
_PROBABILITIES = {"fp32": 1e-4, "fp16": 0.005, "bf16": 0.02, "int8": 0.1}
_SCALED = {"fp32": 1e-4}
ENGINE_SCALED = 1e-3
"""The raw FP32 limit on a GPU: convolutions sum in another order there; with TF32 off the sums stay in FP32."""


_PROBABILITY = "probability"


def limits_for(
    precision: str, tasks: Sequence[Task], overrides: Mapping[str, float] | None = None, scaled: float | None = None
) -> dict[str, Limit]:
    """Return the limits by task. `scaled` is the raw limit of all tasks in FP32; other precisions have none.

    `overrides` gives limits in the tasks' units: by `task` in every precision, by `precision:task` in that one, which goes first.
    Raises UsageError for an unknown precision or task, or a number that cannot be a limit, also where it is of another precision.
    """
    require_precision(precision)
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
    if scaled is not None:
        _require_limit(scaled, "all tasks")
    raw = scaled if scaled is not None and precision == "fp32" else _SCALED.get(precision)
    maps = (TaskKind.BINARY, TaskKind.EDGE)
    limits = {
        task.name: Limit(by_kind[task.kind], raw, _PROBABILITIES[precision] if task.kind in maps else None)
        for task in tasks
    }
    # Those of one precision come last, so that they stand.
    for key, value in sorted((overrides or {}).items(), key=lambda entry: ":" in entry[0]):
        only, _, name = key.rpartition(":")
        name, _, what = name.partition(".")
        if only:
            require_precision(only)
        if name not in limits:
            raise UsageError(f"a limit is given for the task {name!r}; {nearest(name, limits)}")
        _require_limit(value, f"task {name!r}")
        if what not in ("", _PROBABILITY) or (what and limits[name].probability is None):
            raise UsageError(
                f"a limit is given for {name}.{what}; of binary and edge tasks there is TASK.{_PROBABILITY}, of others TASK alone"
            )
        if only in ("", precision):
            limits[name] = replace(limits[name], **{what or "unit": value})
    return limits


def _require_limit(number: float, of: str) -> None:
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(f"the limit {number} of {of} is no finite number of at least 0")


def parse_tolerances(texts: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """Read `--tolerance`: `1e-4` is the raw FP32 limit of all tasks, `semseg=0.01` one task's limit in its unit.

    `fp16:semseg=0.02` is that limit in one precision; the keys are those of `limits_for`. Raises UsageError for anything else.
    """
    scaled, overrides = None, {}
    for text in (part.strip() for entry in texts for part in entry.split(",")):
        left, equals, number = text.rpartition("=")
        only, colon, name = (word.strip() for word in left.rpartition(":"))
        try:
            value = float(number)
        except ValueError:
            raise _no_tolerance(text) from None
        if bool(name) != bool(equals) or bool(only) != bool(colon):
            raise _no_tolerance(text)
        if colon:
            require_precision(only)
        if equals:
            overrides[f"{only}{colon}{name}"] = value
        else:
            scaled = value
    return scaled, overrides


def _no_tolerance(text: str) -> UsageError:
    return UsageError(
        f"--tolerance {text!r}: expected a number such as 1e-4 (raw, for all tasks in fp32), TASK=NUMBER or PRECISION:TASK=NUMBER "
        "(in the task's unit)"
    )

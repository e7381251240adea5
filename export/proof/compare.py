"""The comparison itself: PyTorch's outputs and the exported file's, image by image, into one report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bmtas.errors import ParityError
from bmtas.tasks import Task
from export.proof.limits import Limit
from export.proof.report import number_text
from export.proof.report import worst_text as worst_text  # for those who compare
from export.proof.units import MapUnit, Unit, build_unit, final_prediction
from export.sessions.protocol import Array

SCHEMA_VERSION = 2
Outputs = Mapping[str, Array]
Runs = Callable[[Array], Outputs]


def pairs(reference: Runs, exported: Runs, images: Iterable[Array]) -> Iterator[tuple[Outputs, Outputs]]:
    """Yield what both sides give for each image, one at a time."""
    for image in images:
        yield reference(image), exported(image)


def compare(
    outputs: Iterable[tuple[Outputs, Outputs]],
    tasks: Sequence[Task],
    limits: Mapping[str, Limit],
    *,
    final: bool = False,
) -> dict[str, Any]:
    """Return the parity report over pairs (PyTorch's outputs, the file's), by task, each output of one image (N = 1).

    `final` says that the outputs are final predictions (class ids, probabilities, unit vectors) rather than raw ones. A task
    passes if its difference is within its limit in the task's unit, its raw difference and that of its probabilities within
    theirs where there are such, and no value of either side is NaN or infinite. `passed`: whether all tasks do, and at least one
    image was compared. All numbers are finite; one that cannot be computed is None.

    The raw limit is relative to the task's largest output on that image (absolute below 1) because that is where FP32 ends:
    on outputs of size 240 both PyTorch and ONNX Runtime were seen 3e-4 away from the FP64 result. Raises ParityError if an
    output is missing or of another shape.
    """
    collected = {task.name: _Collected(task, final, build_unit(task.kind)) for task in tasks}
    count = 0
    for reference, exported in outputs:
        count += 1
        for name, of_task in collected.items():
            if name not in exported:
                raise ParityError(f"the exported network has no output {name!r}; it has {', '.join(exported)}")
            of_task.update(np.asarray(reference[name]), np.asarray(exported[name]))
    entries = {name: of_task.entry(limits[name]) for name, of_task in collected.items()}
    passed = count > 0 and bool(entries) and all(entry["passed"] for entry in entries.values())
    return {"schema_version": SCHEMA_VERSION, "images": count, "tasks": entries, "passed": passed}


@dataclass
class _Collected:
    """What one task's outputs have shown so far."""

    task: Task
    final: bool
    unit: Unit
    worst: dict[str, float] = field(default_factory=dict)
    not_finite: int = 0
    reference_not_finite: int = 0

    def update(self, reference: Array, value: Array) -> None:
        if reference.shape != value.shape:
            raise ParityError(
                f"output {self.task.name!r}: PyTorch gives {reference.shape}, the exported network {value.shape}"
            )
        self.not_finite += int((~np.isfinite(value)).sum())
        self.reference_not_finite += int((~np.isfinite(reference)).sum())
        for key, number in _raw(reference, value, classes=self.final and self.task.has_classes).items():
            self.worst[key] = max(self.worst.get(key, 0.0), number)
        with np.errstate(invalid="ignore"):  # what is not finite is counted above, and fails
            if not self.final:
                reference, value = (final_prediction(self.task.kind, raw) for raw in (reference, value))
            self.unit.update(reference, value)

    def entry(self, limit: Limit) -> dict[str, Any]:
        """Return the task's part of the report."""
        measured = self.unit.compute()
        within = measured <= limit.unit if self.unit.better_is_less else measured >= limit.unit
        scaled = self.worst.get("max_scaled_difference")
        close = limit.scaled is None or scaled is None or scaled <= limit.scaled
        map_entry: dict[str, float | None] = {}
        if isinstance(self.unit, MapUnit):
            apart = self.unit.probability_difference()
            close = close and (limit.probability is None or apart <= limit.probability)
            map_entry = {
                "probability_difference": _finite(apart),
                "probability_limit": limit.probability,
                "positives": self.unit.positives(),
            }
        return {
            "unit": self.unit.name,
            "value": _finite(measured),
            "limit": limit.unit,
            "limit_is_most": self.unit.better_is_less,
            **map_entry,
            **{key: _finite(number) for key, number in self.worst.items()},
            "max_scaled_limit": limit.scaled if scaled is not None else None,
            "not_finite": self.not_finite,
            "reference_not_finite": self.reference_not_finite,
            "passed": within and close and self.not_finite == 0 and self.reference_not_finite == 0,
        }


def _finite(number: float) -> float | None:
    """Return the number as JSON can hold it."""
    return number if math.isfinite(number) else None


def _raw(reference: Array, value: Array, *, classes: bool) -> dict[str, float]:
    """Return the raw differences on one image; none for class ids, whose differences mean nothing."""
    if classes:
        return {}
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - value)
    # NaN would win no comparison; it is counted apart and taken as infinite here.
    difference = np.where(np.isnan(difference), np.inf, difference)
    apart = float(difference.max())
    largest = float(np.where(np.isnan(reference), np.inf, np.abs(reference)).max())
    return {
        "max_abs_difference": apart,
        "p999_abs_difference": float(np.quantile(difference, 0.999, method="higher")),
        "max_scaled_difference": apart / max(1.0, largest) if math.isfinite(apart) else math.inf,
        "max_abs_output": largest,
    }


def require_parity(report: Mapping[str, Any]) -> None:
    """Raise ParityError naming the tasks that differ, if any does."""
    if report["passed"]:
        return
    failed = [_failure(name, entry) for name, entry in report["tasks"].items() if not entry["passed"]]
    raise ParityError(
        f"the exported network does not compute what the trained one computes ({report['images']} images): "
        f"{'; '.join(failed) or 'no image was compared'}. Nothing was written; what was there before stays"
    )


def _failure(task: str, entry: Mapping[str, Any]) -> str:
    if entry["reference_not_finite"]:
        return (
            f"{task}: the trained network itself gives {entry['reference_not_finite']} values that are NaN or infinite, so there is "
            "nothing to prove a file against; train it again"
        )
    said = [f"{entry['unit']} {number_text(entry['value'], 3)} (limit {entry['limit']:g})"]
    if entry.get("probability_limit") is not None:
        said.append(
            f"probabilities {number_text(entry['probability_difference'], 3)} apart in the mean (limit {entry['probability_limit']:g})"
        )
    if entry.get("max_scaled_limit") is not None:
        said.append(
            f"largest difference {number_text(entry['max_abs_difference'], 3)}, {number_text(entry['max_scaled_difference'], 3)} of "
            f"the largest value (tolerance {entry['max_scaled_limit']:g})"
        )
    if entry["not_finite"]:
        said.append(f"{entry['not_finite']} values not finite")
    return f"{task} differs: {', '.join(said)}"

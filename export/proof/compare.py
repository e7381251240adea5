"""The comparison itself: PyTorch's outputs and the exported file's, image by image, into one report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bmtas.errors import ParityError
from bmtas.tasks import Task
from export.proof.limits import Limit
from export.proof.units import Unit, build_unit, final_prediction
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
    passes if its difference is within its limit in the task's unit, its raw difference within the raw limit where there is
    one, and no value of the file is NaN or infinite. `passed`: whether all tasks do, and at least one image was compared.

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

    def update(self, reference: Array, value: Array) -> None:
        if reference.shape != value.shape:
            raise ParityError(
                f"output {self.task.name!r}: PyTorch gives {reference.shape}, the exported network {value.shape}"
            )
        self.not_finite += int((~np.isfinite(value)).sum())
        for key, number in _raw(reference, value, classes=self.final and self.task.has_classes).items():
            self.worst[key] = max(self.worst.get(key, 0.0), number)
        if not self.final:
            reference, value = (final_prediction(self.task.kind, raw) for raw in (reference, value))
        self.unit.update(reference, value)

    def entry(self, limit: Limit) -> dict[str, Any]:
        """Return the task's part of the report."""
        measured = self.unit.compute()
        within = measured <= limit.unit if self.unit.better_is_less else measured >= limit.unit
        scaled = self.worst.get("max_scaled_difference")
        close = limit.scaled is None or scaled is None or scaled <= limit.scaled
        return {
            "unit": self.unit.name,
            "value": measured,
            "limit": limit.unit,
            "limit_is_most": self.unit.better_is_less,
            **self.worst,
            "max_scaled_limit": limit.scaled if scaled is not None else None,
            "not_finite": self.not_finite,
            "passed": within and close and self.not_finite == 0,
        }


def _raw(reference: Array, value: Array, *, classes: bool) -> dict[str, float]:
    """Return the raw differences on one image; none for class ids, whose differences mean nothing."""
    if classes:
        return {}
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - value)
    # NaN would win no comparison; it is counted apart and shown as infinite here.
    difference = np.nan_to_num(difference, nan=np.inf)
    largest = float(np.abs(reference).max())
    return {
        "max_abs_difference": float(difference.max()),
        "p999_abs_difference": float(np.quantile(difference, 0.999, method="higher")),
        "max_scaled_difference": float(difference.max()) / max(1.0, largest),
        "max_abs_output": largest,
    }


def require_parity(report: Mapping[str, Any]) -> None:
    """Raise ParityError naming the tasks that differ, if any does."""
    if report["passed"]:
        return
    failed = [_failure(name, entry) for name, entry in report["tasks"].items() if not entry["passed"]]
    raise ParityError(
        f"the exported network does not compute what the trained one computes ({report['images']} images): "
        f"{'; '.join(failed) or 'no image was compared'}. No file was written"
    )


def _failure(task: str, entry: Mapping[str, Any]) -> str:
    said = [f"{entry['unit']} {entry['value']:.3g} (limit {entry['limit']:g})"]
    if entry.get("max_scaled_limit") is not None:
        said.append(
            f"largest difference {entry['max_abs_difference']:.3g}, {entry['max_scaled_difference']:.3g} of the largest value "
            f"(tolerance {entry['max_scaled_limit']:g})"
        )
    if entry["not_finite"]:
        said.append(f"{entry['not_finite']} values not finite")
    return f"{task} differs: {', '.join(said)}"


def worst_text(report: Mapping[str, Any]) -> str:
    """Return the report in one line: each task's difference in its unit."""
    return ", ".join(f"{name} {entry['value']:.2g} ({entry['unit']})" for name, entry in report["tasks"].items())

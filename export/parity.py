"""The proof of an export: the same images through PyTorch and through the exported file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bmtas.errors import ParityError

DEFAULT_TOLERANCE = 1e-4
Exported = Callable[[npt.NDArray[np.float32]], dict[str, npt.NDArray[np.float32]]]


def compare(network: nn.Module, exported: Exported, images: Iterable[Tensor], tolerance: float) -> dict[str, Any]:
    """Return per task how far the raw outputs differ over `images`, each (3, H, W).

    A task passes if on every image max |difference| <= tolerance * max(1, max |reference|) and no value is NaN. The
    scale is that of the output because that is where FP32 ends: on outputs of size 240 both PyTorch and ONNX Runtime were
    seen 3e-4 away from the FP64 result. The result holds `passed`: whether all tasks do.
    """
    tasks: dict[str, dict[str, Any]] = {}
    count = 0
    with torch.inference_mode():
        for image in images:
            expected = network(image[None])
            actual = exported(image[None].numpy())
            count += 1
            for task, reference in expected.items():
                entry = _difference(task, reference.numpy(), actual[task])
                known = tasks.setdefault(task, dict.fromkeys(entry, 0))
                for key, value in entry.items():
                    known[key] = known[key] + value if key == "not_finite" else max(known[key], value)
    for entry in tasks.values():
        entry["passed"] = entry["max_scaled_difference"] <= tolerance and entry["not_finite"] == 0
    passed = bool(tasks) and all(entry["passed"] for entry in tasks.values())
    return {"schema_version": 1, "images": count, "tolerance": tolerance, "tasks": tasks, "passed": passed}


def _difference(task: str, reference: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> dict[str, Any]:
    if reference.shape != values.shape:
        raise ParityError(f"output {task!r}: PyTorch gives {reference.shape}, the export {values.shape}")
    difference = np.abs(reference.astype(np.float64) - values)
    # NaN would win no comparison; it is counted apart and shown as infinite here.
    difference = np.nan_to_num(difference, nan=np.inf)
    largest = float(np.abs(reference).max())
    return {
        "max_abs_difference": float(difference.max()),
        "max_scaled_difference": float(difference.max()) / max(1.0, largest),
        "max_abs_output": largest,
        "not_finite": int((~np.isfinite(values)).sum()),
    }


def require_parity(report: dict[str, Any]) -> None:
    """Raise ParityError naming the tasks that differ, if any does."""
    if report["passed"]:
        return
    failed = [
        f"{task} differs by {entry['max_abs_difference']:.3g}, {entry['max_scaled_difference']:.3g} of its largest value ({entry['not_finite']} values not finite)"
        for task, entry in report["tasks"].items()
        if not entry["passed"]
    ]
    raise ParityError(
        f"the exported network does not compute what the trained one computes (tolerance {report['tolerance']:g}, "
        f"{report['images']} images): {'; '.join(failed) or 'no image was compared'}. No file was written"
    )

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
    """Return per task the largest absolute difference of the raw outputs over `images`, each (3, H, W).

    The result holds `passed`: whether every task is within `tolerance` and free of NaN.
    """
    worst: dict[str, float] = {}
    invalid: dict[str, int] = {}
    largest: dict[str, float] = {}
    count = 0
    with torch.inference_mode():
        for image in images:
            expected = network(image[None])
            actual = exported(image[None].numpy())
            count += 1
            for task, reference in expected.items():
                reference_array, values = reference.numpy(), actual[task]
                if reference_array.shape != values.shape:
                    raise ParityError(
                        f"output {task!r}: PyTorch gives {reference_array.shape}, the export {values.shape}"
                    )
                difference = np.abs(reference_array.astype(np.float64) - values)
                invalid[task] = invalid.get(task, 0) + int((~np.isfinite(values)).sum())
                # NaN would win no comparison; it is counted above and shown as infinite here.
                largest_here = float(np.nan_to_num(difference, nan=np.inf).max())
                worst[task] = max(worst.get(task, 0.0), largest_here)
                largest[task] = max(largest.get(task, 0.0), float(np.abs(reference_array).max()))
    tasks = {
        task: {
            "max_abs_difference": worst[task],
            "max_abs_output": largest[task],
            "not_finite": invalid[task],
            "passed": worst[task] <= tolerance and invalid[task] == 0,
        }
        for task in worst
    }
    passed = bool(tasks) and all(entry["passed"] for entry in tasks.values())
    return {"schema_version": 1, "images": count, "tolerance": tolerance, "tasks": tasks, "passed": passed}


def require_parity(report: dict[str, Any]) -> None:
    """Raise ParityError naming the tasks that differ, if any does."""
    if report["passed"]:
        return
    failed = [
        f"{task} differs by {entry['max_abs_difference']:.3g} ({entry['not_finite']} values not finite)"
        for task, entry in report["tasks"].items()
        if not entry["passed"]
    ]
    raise ParityError(
        f"the exported network does not compute what the trained one computes (tolerance {report['tolerance']:g}, "
        f"{report['images']} images): {'; '.join(failed) or 'no image was compared'}. No file was written"
    )

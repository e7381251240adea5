"""Labels as colours, and pictures side by side under titles. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bmtas.files import PLACES, atomic_path
from bmtas.tasks import IGNORE, Task, TaskKind

Picture = npt.NDArray[np.uint8]

_HEADER = 14  # pixels for the column titles
_GOLDEN = 0.618033988749895  # hues that are far apart however many classes there are


def colour(task: Task, label: npt.NDArray[Any], limits: tuple[float, float]) -> Picture:
    """Return a dense label, in the form of `bmtas.tasks`, as (H, W, 3) colours; invalid pixels are grey.

    `limits` are the values that are black and white in depth and regression.
    """
    if task.kind is TaskKind.SEGMENTATION:
        colours = _palette(task.channels)[np.minimum(label, task.channels - 1)]
        return np.where((label == IGNORE)[..., None], np.uint8(128), colours)
    if task.kind is TaskKind.NORMALS:
        return np.rint((label + 1) * 127.5).clip(0, 255).astype(np.uint8)
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return greys(label, limits)
    return greys(np.where(label == IGNORE, np.float32(0.5), label.astype(np.float32)), (0.0, 1.0))


def greys(values: npt.NDArray[Any], limits: tuple[float, float]) -> Picture:
    """Return values (H, W) as greys (H, W, 3): black at the lower of `limits`, white at the upper; NaN is between."""
    low, high = limits
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-9), nan=0.5).clip(0, 1)
    return np.repeat(np.rint(scaled * 255).astype(np.uint8)[..., None], 3, axis=2)


def limits_of(label: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the least and the greatest finite value; (0, 1) if there is none."""
    valid = label[np.isfinite(label)]
    return (float(valid.min()), float(valid.max())) if valid.size else (0.0, 1.0)


def write_sheet(rows: Sequence[Sequence[Picture]], titles: Sequence[str], path: Path, option: str = PLACES) -> None:
    """Write pictures of equal size (H, W, 3) as rows under the titles of their columns, into the PNG file `path`.

    Raises EnvironmentProblem as `bmtas.files.atomic_path` does, which names `option`.
    """
    height, width = rows[0][0].shape[:2]
    sheet = Image.new("RGB", (width * len(titles), _HEADER + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * width + 2, 1), title, fill="black")
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            sheet.paste(Image.fromarray(tile), (column * width, _HEADER + number * height))
    with atomic_path(path, option=option) as temporary:
        sheet.save(temporary, format="PNG")


def _palette(classes: int) -> Picture:
    """Return (classes, 3) colours; class 0 is dark, as it is background nearly everywhere."""
    import colorsys

    colours = [(30, 30, 30)]
    for i in range(1, classes):
        r, g, b = colorsys.hsv_to_rgb((i * _GOLDEN) % 1.0, 0.65, 0.95 if i % 2 else 0.7)
        colours.append((round(r * 255), round(g * 255), round(b * 255)))
    return np.array(colours, dtype=np.uint8)

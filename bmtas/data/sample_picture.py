"""One image with all its labels, side by side under their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bmtas.colours import Picture, colour, limits_of, write_sheet
from bmtas.data.protocol import Sample
from bmtas.tasks import IGNORE, Task, TaskKind

_NARROWEST = 192  # pixels for a panel, so that its title can be read


def draw_sample(sample: Sample, tasks: tuple[Task, ...], path: Path) -> int:
    """Write the image and each of its labels into the PNG file `path` and return the number of panels.

    Grey stands for pixels without a value. Titles say what black and white are in depth and regression, how many classes
    are seen, and the class of an image.
    """
    height, width = sample.image.shape[:2]
    enlarged = -(-_NARROWEST // width)
    titles, panels = ["image"], [sample.image]
    for task in tasks:
        if task.name in sample.labels:
            title, panel = _panel(task, np.asarray(sample.labels[task.name]), (height, width))
            titles.append(title)
            panels.append(panel)
    large = [np.repeat(np.repeat(panel, enlarged, axis=0), enlarged, axis=1) for panel in panels]
    write_sheet([large], titles, path, "--picture")
    return len(panels)


def _panel(task: Task, label: npt.NDArray[Any], size: tuple[int, int]) -> tuple[str, Picture]:
    """Return title and colours (H, W, 3) of a label."""
    if task.kind is TaskKind.CLASSIFICATION:
        name = task.classes[int(label)] if int(label) >= 0 else "no class"
        return f"{task.name}: {name}", _written(name, size)
    limits = limits_of(label)
    if task.kind is TaskKind.SEGMENTATION:
        seen = np.unique(label[label != IGNORE]).size
        title = f"{task.name}: {seen} of {len(task.classes)} classes"
    elif task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        unit = " m" if task.kind is TaskKind.DEPTH else ""
        title = f"{task.name}: {limits[0]:.3g} to {limits[1]:.3g}{unit}"
    else:
        title = task.name
    return title, colour(task, label, limits)


def _written(text: str, size: tuple[int, int]) -> Picture:
    """Return a white panel of `size` (height, width) with a line of text."""
    panel = Image.new("RGB", (size[1], size[0]), "white")
    ImageDraw.Draw(panel).text((2, size[0] // 2 - 6), text, fill="black")
    return np.asarray(panel)

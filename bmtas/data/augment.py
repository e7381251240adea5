"""Augmentation of an image and all its labels together (paper, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bmtas.data.protocol import Sample
from bmtas.tasks import IGNORE, Task, TaskKind

_GREY = 127  # what stands outside the image: the middle of the intensity range


@dataclass(frozen=True)
class Augmentation:
    """`flip`: mirror half of the images; `scales`: resize by one of these factors and crop or pad to the old size."""

    flip: bool = True
    scales: tuple[float, ...] = (1.0,)


def augment(sample: Sample, tasks: tuple[Task, ...], augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """Return the sample, randomly scaled, cropped and mirrored; image and labels keep their size."""
    scale = float(rng.choice(augmentation.scales))
    offset = rng.random(2)
    mirror = augmentation.flip and rng.random() < 0.5
    image = sample.image
    labels = dict(sample.labels)
    kinds = {task.name: task.kind for task in tasks}
    if scale != 1.0:
        image = _rescaled(image, scale, offset, _GREY, smooth=True)
        labels = {name: _rescaled_label(label, kinds[name], scale, offset) for name, label in labels.items()}
    if mirror:
        image = image[:, ::-1]
        labels = {name: _mirrored(label, kinds[name]) for name, label in labels.items()}
    return Sample(sample.id, image, labels)


def _mirrored(label: np.ndarray, kind: TaskKind) -> np.ndarray:
    if kind is TaskKind.CLASSIFICATION:
        return label
    flipped = label[:, ::-1]
    if kind is TaskKind.NORMALS:  # x points right; in the mirror it points left
        flipped = flipped * np.array([-1, 1, 1], dtype=label.dtype)
    return flipped


def _rescaled_label(label: np.ndarray, kind: TaskKind, scale: float, offset: np.ndarray) -> np.ndarray:
    if kind is TaskKind.CLASSIFICATION:
        return label
    fill = {TaskKind.NORMALS: 0.0, TaskKind.DEPTH: np.nan, TaskKind.REGRESSION: np.nan}.get(kind, IGNORE)
    result = _rescaled(label, scale, offset, fill, smooth=False)
    # Seen s times larger is seen from s times nearer.
    return result / np.float32(scale) if kind is TaskKind.DEPTH else result


def _rescaled(array: np.ndarray, scale: float, offset: np.ndarray, fill: float, *, smooth: bool) -> np.ndarray:
    """Resize by `scale`, then crop (or pad with `fill`) at the relative `offset` back to the old size."""
    height, width = array.shape[:2]
    rows, columns = round(height * scale), round(width * scale)
    if smooth:
        resized = np.asarray(Image.fromarray(array).resize((columns, rows), Image.Resampling.BILINEAR))
    else:
        y = ((np.arange(rows) + 0.5) / scale).astype(int).clip(max=height - 1)
        x = ((np.arange(columns) + 0.5) / scale).astype(int).clip(max=width - 1)
        resized = array[y][:, x]
    result = np.full_like(array, fill)
    top, left = (int(offset[0] * abs(rows - height)), int(offset[1] * abs(columns - width)))
    if scale > 1:
        return resized[top : top + height, left : left + width]
    result[top : top + rows, left : left + columns] = resized
    return result

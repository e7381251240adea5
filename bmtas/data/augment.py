"""Augmentation of an image and all its labels together (paper, appendix A), by torchvision's transforms.

The transforms move pixels; what a label means after that is told here: mirrored normals point the other way along x, and
what is seen larger is nearer.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from bmtas.data.protocol import GREY, Sample
from bmtas.tasks import Task, TaskKind, invalid_value
from bmtas.torchvision_remedy import import_torchvision


@dataclass(frozen=True)
class Augmentation:
    """`flip`: mirror half of the images; `scales`: resize by one of these factors and crop or pad to the old size."""

    flip: bool = True
    scales: tuple[float, ...] = (1.0,)


def augment(sample: Sample, tasks: tuple[Task, ...], augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """Return the sample, randomly scaled, cropped and mirrored; image and labels keep their size.

    What is random is drawn from `rng` alone, in the same number of draws whatever comes of them.
    """
    scale = float(rng.choice(augmentation.scales))
    offset = rng.random(2)
    mirror = augmentation.flip and rng.random() < 0.5
    image = _moved(_planes(sample.image), scale, offset, mirror=mirror, fill=GREY, smooth=True)
    kinds = {task.name: task.kind for task in tasks}
    labels = {name: _label(label, kinds[name], scale, offset, mirror=mirror) for name, label in sample.labels.items()}
    return Sample(sample.id, _array(image), labels)


def _label(label: np.ndarray, kind: TaskKind, scale: float, offset: np.ndarray, *, mirror: bool) -> np.ndarray:
    if kind is TaskKind.CLASSIFICATION:
        return label
    moved = _moved(_planes(label), scale, offset, mirror=mirror, fill=invalid_value(kind), smooth=False)
    if kind is TaskKind.NORMALS and mirror:  # x points right; in the mirror it points left
        moved = moved * moved.new_tensor([-1, 1, 1])[:, None, None]
    # Seen s times larger is seen from s times nearer.
    return _array(moved / scale if kind is TaskKind.DEPTH else moved)


def _moved(planes: Tensor, scale: float, offset: np.ndarray, *, mirror: bool, fill: float, smooth: bool) -> Tensor:
    """Resize (channels, H, W) by `scale`, crop or pad with `fill` at the relative `offset` to the old size, and mirror."""
    transforms = _transforms()
    if scale != 1.0:
        height, width = planes.shape[-2:]
        size = [round(height * scale), round(width * scale)]
        way = "bilinear" if smooth else "nearest-exact"
        planes = transforms.resize(planes, size, interpolation=_interpolation(way), antialias=True)
        top, left = (int(share * abs(new - old)) for share, new, old in zip(offset, size, (height, width), strict=True))
        if scale > 1:
            planes = transforms.crop(planes, top, left, height, width)
        else:
            border = [left, top, width - size[1] - left, height - size[0] - top]
            planes = transforms.pad(planes, border, fill=fill)
    return transforms.horizontal_flip(planes) if mirror else planes


@functools.cache
def _transforms() -> ModuleType:
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2.functional")


@functools.cache
def _interpolation(name: str) -> object:
    return importlib.import_module("torchvision.transforms").InterpolationMode(name)


def _planes(array: np.ndarray) -> Tensor:
    """Return (H, W) or (H, W, channels) as (channels, H, W); it shares the memory."""
    tensor = torch.from_numpy(np.require(array, requirements=["W", "C"]))
    return tensor.movedim(-1, 0) if tensor.ndim == 3 else tensor[None]


def _array(planes: Tensor) -> np.ndarray:
    """Inverse of `_planes`."""
    array: np.ndarray = planes.movedim(0, -1).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array

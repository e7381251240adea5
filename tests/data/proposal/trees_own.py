"""Folders as people have them: small photographs, and labels drawn with numpy whose kinds are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = (48, 64)
Array = npt.NDArray[Any]


def photograph(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """Noise of thousands of colours."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def classes(seed: int, count: int = 4, size: tuple[int, int] = SIZE) -> Array:
    """Upright stripes, one per class, in another order for each seed."""
    order = np.random.default_rng(seed).permutation(count).astype(np.uint8)
    return np.repeat(order[np.arange(size[1]) * count // size[1]][None], size[0], axis=0)


def edges(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """1 on lines of two pixels where the classes change."""
    ids = classes(seed, size=size)
    found = np.zeros(size, dtype=np.uint8)
    changed = ids[:, 1:] != ids[:, :-1]
    found[:, 1:] |= changed
    found[:, :-1] |= changed
    return found


def blob(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """1 in a disc of radius 12."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre = np.random.default_rng(seed).integers(14, 34, 2)
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 144).astype(np.uint8)


def millimetres(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """A floor that goes from 1.2 to 4.7 m, with a centimetre of noise: 16 bits."""
    far = np.linspace(4700, 1200, size[0])[:, None] + np.random.default_rng(seed).integers(-10, 11, size)
    return far.astype(np.uint16)


def room_normals(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """Unit vectors x right, y down, z forward, of a room: ceiling, back wall, floor, and walls at the sides."""
    vectors = np.zeros((*size, 3))
    third_h, third_w = size[0] // 3, size[1] // 3
    vectors[...] = (0, 0, -1)
    vectors[:, :third_w] = (1, 0, -1)
    vectors[:, -third_w:] = (-1, 0, -1)
    vectors[:third_h, third_w:-third_w] = (0, 1, -1)
    vectors[-third_h:, third_w:-third_w] = (0, -1, -1)
    vectors += np.random.default_rng(seed).normal(0, 0.05, vectors.shape)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def save(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def write_standard(root: Path, place: str, count: int = 10) -> None:
    """Write `count` images with classes, depth and edges at `place`, with {role}, {i} and {split} in it; 8 are for training."""
    for i in range(count):
        split = "train" if i < count - 2 else "val"
        drawn = {"rgb": photograph(i), "semseg": classes(i), "depth": millimetres(i), "edge": edges(i)}
        for role, array in drawn.items():
            save(root / place.format(role=role, i=i, split=split), array)

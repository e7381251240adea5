"""The built-in data set: rendered small rooms with boxes, spheres and cylinders, with six exact labels each.

It needs no download and no dependency beyond numpy. Every image and all its labels come from one ray per
pixel (`bmtas.data.raycast`), so labels are exact to the pixel and agree with each other at any size.

| task | kind | label |
|---|---|---|
| semseg | segmentation | class of the surface seen, 10 classes; no pixel is undefined |
| parts | segmentation | part of the solid seen; the room and what hangs on it are background |
| saliency | binary | 1 on solids painted in a vivid colour, which glow; each image has one or two |
| normals | normals | unit normal in camera axes: x right, y down, z forward, so z < 0 faces the camera |
| edge | edge | 1 on both pixels of each 4-neighbour pair that sees two different surfaces |
| depth | depth | metres along the optical axis |

Surfaces, for edges, are: each of the room's six faces, each window, door, picture and rug, each solid. The
creases of a box are no edges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bmtas.data.protocol import Sample
from bmtas.data.raycast import CLASSES, PARTS, Buffers, Scene, edges, render_scene
from bmtas.data.rooms import draw_scene
from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, TaskKind, select_tasks

VERSION = 1
"""Version of the generator (this module, rooms, raycast and textures): to be raised by every change that
alters an image or a label."""

SPLITS = ("train", "val")

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=CLASSES, loss_weight=1),
    Task(name="parts", kind=TaskKind.SEGMENTATION, classes=PARTS, loss_weight=2),
    Task(name="saliency", kind=TaskKind.BINARY, loss_weight=5),
    Task(name="normals", kind=TaskKind.NORMALS, loss_weight=10),
    # Edge pixels are 9 % of the pixels at 128 x 128, 4.5 % at 256 x 256, 2.2 % at 512 x 512 (edges stay 2
    # pixels thick): at the middle size, 0.95 gives edge pixels and the others the same total weight.
    Task(name="edge", kind=TaskKind.EDGE, loss_weight=50, edge_positive_weight=0.95),
    Task(name="depth", kind=TaskKind.DEPTH, loss_weight=1),
)

_SMALLEST = 8  # pixels: below, a room is not to be recognised
_LABELS: Mapping[str, Callable[[Scene, Buffers], npt.NDArray[np.generic]]] = {
    "semseg": lambda scene, seen: scene.classes[seen.surface],
    "parts": lambda _, seen: seen.parts,
    "saliency": lambda scene, seen: scene.salient[seen.surface],
    "normals": lambda _, seen: seen.normals,
    "edge": lambda _, seen: edges(seen.surface),
    "depth": lambda _, seen: seen.depth,
}


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The data set `scenes`: `train` and `val` generated images, rendered when loaded; a `bmtas` Dataset.

    `seed` chooses the scenes: equal seeds give equal scenes, whatever the counts, so a larger data set begins
    with the images of the smaller one. `size` is (height, width) of deployment; `load` renders at any size.
    Raises UsageError for counts below 1, a negative seed and sizes below 8 pixels.
    """

    seed: int = 0
    train: int = 512
    val: int = 64
    size: tuple[int, int] = (512, 512)

    def __post_init__(self) -> None:
        """Check the parameters. Raises UsageError."""
        if self.seed < 0:
            raise UsageError(f"scenes: seed {self.seed}; it must be 0 or more")
        for split in SPLITS:
            if self._count(split) < 1:
                raise UsageError(f"scenes: {self._count(split)} images in {split}; a split has at least 1")
        _check_size(self.size)

    @property
    def name(self) -> str:
        """`scenes`."""
        return "scenes"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The six tasks: semseg, parts, saliency, normals, edge, depth."""
        return TASKS

    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of a split, such as `train-000012`. Raises UsageError for an unknown split."""
        return [f"{split}-{i:06d}" for i in range(self._count(split))]

    def scene(self, split: str, index: int) -> Scene:
        """Return the scene behind an image. Raises UsageError for an unknown split, IndexError for index."""
        count = self._count(split)
        if not 0 <= index < count:
            raise IndexError(f"scenes: image {index} of {split}, which has {count} images")
        return draw_scene(np.random.default_rng([self.seed, SPLITS.index(split), index]))

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Render image `index` of `split` at `size` (height, width) with the labels of `tasks`.

        The scene does not depend on the size; a wider or higher image than a square one shows more of it at
        its ends. Raises UsageError for an unknown split or task, for a task named twice and for a size below
        8 pixels, IndexError for an index outside the split.
        """
        if tasks:
            select_tasks(TASKS, list(tasks))
        _check_size(size)
        scene = self.scene(split, index)
        seen = render_scene(scene, size)
        labels = {task: _LABELS[task](scene, seen) for task in tasks}
        return Sample(id=f"{split}-{index:06d}", image=seen.image, labels=labels)

    def fingerprint(self) -> str:
        """Return a hash of the generator's version and the parameters.

        The deployment size is left out: at a given size, `load` answers the same whatever it is.
        """
        definition = [VERSION, self.seed, self.train, self.val, [t.to_json() for t in TASKS]]
        return hashlib.sha256(json.dumps(["scenes", *definition]).encode()).hexdigest()

    def _count(self, split: str) -> int:
        """Return the number of images of a split. Raises UsageError for an unknown one."""
        if split not in SPLITS:
            raise UsageError(f"scenes: unknown split {split!r}; {nearest(split, SPLITS)}")
        return self.train if split == "train" else self.val


def _check_size(size: tuple[int, int]) -> None:
    """Raise UsageError unless both sides have at least 8 pixels."""
    if min(size) < _SMALLEST:
        raise UsageError(f"scenes: size {size[0]} x {size[1]} pixels; each side needs at least {_SMALLEST}")

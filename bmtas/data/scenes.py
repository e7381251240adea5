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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bmtas.data.generated import Generated
from bmtas.data.protocol import Sample
from bmtas.data.raycast import CLASSES, PARTS, Buffers, Scene, edges, render_scene
from bmtas.data.rooms import draw_scene
from bmtas.tasks import Task, TaskKind

VERSION = 1
"""Version of the generator (this module, rooms, raycast and textures): to be raised by every change that
alters an image or a label."""


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
class Scenes(Generated):
    """The data set `scenes`: rooms that are rendered when loaded; a wider or higher image than a square one shows more of its room at its ends."""

    title: ClassVar[str] = "scenes"
    version: ClassVar[int] = VERSION
    all_tasks: ClassVar[tuple[Task, ...]] = TASKS
    smallest: ClassVar[int] = _SMALLEST

    train: int = 512
    val: int = 64
    size: tuple[int, int] = (512, 512)

    def scene(self, split: str, index: int) -> Scene:
        """Return the scene behind an image. Raises UsageError for an unknown split, IndexError for index."""
        return draw_scene(self._random(split, index))

    def _made(self, split: str, index: int, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        scene = self.scene(split, index)
        seen = render_scene(scene, size)
        labels = {task: _LABELS[task](scene, seen) for task in tasks}
        return Sample(id=self._id(split, index), image=seen.image, labels=labels)

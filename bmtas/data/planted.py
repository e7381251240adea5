"""The built-in data set `planted`: four tasks in two pairs, made so that it is known which should share late layers.

It is no picture of anything. It exists to ask a search a question whose answer is known. Behind each image stands a
board of 8 x 8 cells, and in each cell two directions in space: vectors a and b of three numbers each, the numbers drawn
independently and evenly from -1 to 1. The image shows all six in every cell, as the strengths of six patterns that are
laid over each other (`PATTERNS`), so that no number hides another: each can be read off its cell by itself.

| task | kind | label at each pixel: the direction, a unit vector, of |
|---|---|---|
| a1 | normals | a |
| a2 | normals | a, turned by a quarter turn about the x axis: (x, z, -y) |
| b1 | normals | b |
| b2 | normals | b, turned likewise |

Between the cells' centres a and b are interpolated bilinearly, as networks enlarge their predictions.

Why the right tree is known, for the backbone `tiny`:

- Its first three layers have 12 channels: room for all six numbers. No task loses there by sharing.
- Its last three layers have 4 channels, one value each per cell. A task needs the three numbers of its own vector; its
  mate needs the same three; the tasks of the other pair need three others. A direction takes three numbers at least to be
  passed on without a jump: a sphere does not fit into the plane. So a pair shares a narrow layer without loss, and any
  group with tasks of both pairs would have to pass on six numbers, or two spheres, in four: no continuous map does that
  and keeps them apart.
- What a narrow layer has lost, no later one and no head brings back: heads see the last layer alone.

So the planted tree shares layers 0 to 2 among all and layers 3 to 5 within the pairs. All layers of `tiny` cost the same;
within the planted tree's cost, every other tree joins both pairs in a narrow layer and loses there.
benchmarks/planted_trees.py measures it.

A mirrored image shows the mirrored vectors, x negated, so that augmentation may mirror.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bmtas.architecture import Grouping
from bmtas.data.generated import Generated
from bmtas.data.protocol import Sample
from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind

Floats = npt.NDArray[np.float64]

VERSION = 2
"""Version of the generator: to be raised by every change that alters an image or a label."""


PLANTED_PAIRS: Grouping = (("a1", "a2"), ("b1", "b2"))
"""The tasks that belong together in late layers."""

PARTING_LAYER = 3
"""The first layer of the backbone `tiny` (counted from 0) that the pairs do not share in the planted tree."""

BOARD = 8  # cells along each side
CELL = 4  # points along each side of a cell
TASKS = tuple(Task(name=name, kind=TaskKind.NORMALS, loss_weight=1) for pair in PLANTED_PAIRS for name in pair)

# Walsh's four functions of four points, by changes of sign; 0 and 2 are their own mirror images, 1 and 3 negate.
_WALSH = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]])
# (row function, column function, colour) of the numbers a_x, a_y, a_z, b_x, b_y, b_z. Functions differ in each colour, so
# that the patterns are orthogonal; those of x alone negate when mirrored.
_SHOWN = ((0, 1, 0), (1, 0, 1), (2, 2, 2), (0, 3, 0), (3, 0, 1), (2, 0, 2))
PATTERNS: npt.NDArray[np.int64] = np.stack(
    [np.einsum("y,x,o->yxo", _WALSH[row], _WALSH[column], np.eye(3, dtype=np.int64)[o]) for row, column, o in _SHOWN]
)
"""What shows each of the six numbers in a cell, (6, 4, 4, 3), values -1, 0 and 1; orthogonal to each other."""

_GREY, _STRENGTH = 127.5, 60.0  # two patterns meet in each colour: 127.5 +- 120 stays within 0 to 255
_SMALLEST = 32  # pixels: below, points of cells are missing


def planted_groupings(layers: int, parting: int = PARTING_LAYER) -> tuple[Grouping, ...]:
    """Return the planted tree's groupings of an encoder of `layers` layers: all tasks together, then the two pairs.

    `parting` is the first layer that the pairs do not share: 0 to `layers`. Raises UsageError for another one.
    """
    if not 0 <= parting <= layers:
        raise UsageError(f"planted: the pairs cannot part at layer {parting} of {layers}; give 0 to {layers}")
    together: Grouping = (tuple(name for pair in PLANTED_PAIRS for name in pair),)
    return (together,) * parting + (PLANTED_PAIRS,) * (layers - parting)


def render(vectors: Floats, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the image, (H, W, 3) RGB of `size` (height, width), that shows `vectors` (8, 8, 6).

    Drawn at 32 x 32 points and sampled from there: exact at whole multiples.
    """
    points = np.einsum("rck,kyxo->rycxo", vectors, PATTERNS).reshape(BOARD * CELL, BOARD * CELL, 3)
    rows, columns = (((np.arange(pixels) + 0.5) * BOARD * CELL / pixels).astype(int) for pixels in size)
    return np.rint(_GREY + _STRENGTH * points[np.ix_(rows, columns)]).astype(np.uint8)


def directions(vectors: Floats, size: tuple[int, int]) -> Floats:
    """Return the directions of a and b at each pixel of `size` (height, width), unit vectors, (H, W, 2, 3).

    `vectors` is (8, 8, 6): a, then b, of each cell.
    """
    rows, columns = (_between_cells(pixels) for pixels in size)
    spread = np.einsum("yr,xc,rck->yxk", rows, columns, vectors).reshape(*size, 2, 3)
    length: Floats = np.linalg.norm(spread, axis=-1, keepdims=True)
    return spread / np.maximum(length, 1e-12)


def _between_cells(pixels: int) -> Floats:
    """Return how much of each cell is in each pixel, (pixels, 8): bilinear, constant beyond the outer cells' centres."""
    place = ((np.arange(pixels) + 0.5) * BOARD / pixels - 0.5).clip(0, BOARD - 1)
    weights: Floats = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(BOARD)))
    return weights


@dataclass(frozen=True, kw_only=True)
class Planted(Generated):
    """The data set `planted`: images that are drawn when loaded, stretched to the size asked for; labels are (H, W, 3) float32."""

    title: ClassVar[str] = "planted"
    version: ClassVar[int] = VERSION
    all_tasks: ClassVar[tuple[Task, ...]] = TASKS
    smallest: ClassVar[int] = _SMALLEST

    train: int = 2048  # enough for some hundreds of steps not to meet an image many times
    val: int = 256
    size: tuple[int, int] = (32, 32)

    def vectors(self, split: str, index: int) -> Floats:
        """Return a and b of each cell behind an image, (8, 8, 6), from -1 to 1.

        Raises UsageError for an unknown split, IndexError for an index outside it.
        """
        return self._random(split, index).uniform(-1, 1, size=(BOARD, BOARD, len(PATTERNS)))

    def _made(self, split: str, index: int, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        vectors = self.vectors(split, index)
        both = directions(vectors, size)
        labels = {task: _turned(both[..., "ab".index(task[0]), :], task[1]).astype(np.float32) for task in tasks}
        return Sample(id=self._id(split, index), image=render(vectors, size), labels=labels)


def _turned(vectors: Floats, number: str) -> Floats:
    """Return what the first or the second task of a pair tells of `vectors`, (..., 3)."""
    if number == "1":
        return vectors
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([x, z, -y], axis=-1)

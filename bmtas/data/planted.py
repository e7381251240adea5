"""The built-in data set `planted`: four tasks in two pairs, made so that it is known which should share late layers.

It is no picture of anything. It exists to ask a search a question whose answer is known. Every image is a board of
4 x 4 cells. Each cell shows one of three patterns (stripes along rows, stripes along columns, checks) in one of three
colours (red, green, blue), both numbered from 0 to 2. Behind each image stand two hidden numbers a and b, each 0, 1
or 2, drawn independently. Half of the cells, scattered at random, obey

    (pattern + colour) mod 3 = a,       and the other half        (pattern - colour) mod 3 = b.

A straight line parts the ground under the cells into a light and a dark side.

| task | kind | label |
|---|---|---|
| a1 | segmentation | 1 + a on the light side, 0 on the dark one |
| a2 | segmentation | 1 + a on the dark side, 0 on the light one |
| b1 | segmentation | 1 + b on the light side, 0 on the dark one |
| b2 | segmentation | 1 + b on the dark side, 0 on the light one |

Why the right tree is known:

- All four need the same early features: patterns, colours and the ground. Neither pattern nor colour alone tells
  anything, of one cell or of all: for whatever a and b, each pattern and each colour is equally likely in each cell,
  and each pattern covers as many pixels as any other. Only their combination tells.
- a1 and a2 need the same late feature, which sums over the whole image in which of the three classes of
  pattern + colour the cells lie; b1 and b2 need the same of pattern - colour.
- The two disturb each other. A cell that obeys b lies in any class of pattern + colour with equal chance, so that it
  is noise to a, and the other way round. The nine combinations of pattern and colour leave, beside the margins, four
  degrees of freedom; a's answer is in two of them, b's in the other two. What sums up a's classes has lost b's.
- The pairs are equally hard: to swap green and blue turns a picture of (a, b) into one of (b, a).
- A mirrored picture obeys the same rules, so that augmentation may mirror.

`PARTING_LAYER` says where the pairs part; benchmarks/planted_warmup.py measures it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bmtas.architecture import Grouping
from bmtas.data.protocol import Sample
from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, TaskKind, select_tasks

_Number = TypeVar("_Number", bound=np.generic)

VERSION = 1
"""Version of the generator: to be raised by every change that alters an image or a label."""

SPLITS = ("train", "val")

PLANTED_PAIRS: Grouping = (("a1", "a2"), ("b1", "b2"))
"""The tasks that belong together in late layers."""

PARTING_LAYER = 6
"""The first layer of mobilenet_v2 (counted from 0) that the pairs do not share in the planted tree, at 64 x 64 pixels.

There, layers 0 to 5 see the board before a cell has become one pixel of the feature map (stride 8), where pattern and
colour are still to be told apart; what comes later joins and sums them up.
"""

VALUES = 3  # of a pattern, a colour, a hidden number: with three, the four degrees of freedom fall to a and b alone
BOARD = 4  # cells along each side
CLASSES = ("elsewhere", "zero", "one", "two")
TASKS = tuple(
    Task(name=name, kind=TaskKind.SEGMENTATION, classes=CLASSES, loss_weight=1)
    for pair in PLANTED_PAIRS
    for name in pair
)

# The board is drawn on a raster of this many points along each side and sampled from it, so that at 64 x 64 pixels and
# whole multiples every pattern covers the same number of pixels: 72 of 256 of its cell.
_RASTER = 64
_CELL = _RASTER // BOARD
_FILLED = 12  # raster points along each side of a cell that the pattern fills
_BAND = 3  # raster points across a stripe or a check
_SMALLEST = 16  # pixels: below, stripes are not to be recognised
_COLOURS = np.array([[230, 60, 60], [60, 230, 60], [60, 60, 230]], dtype=np.float64)


def planted_groupings(layers: int, parting: int = PARTING_LAYER) -> tuple[Grouping, ...]:
    """Return the planted tree's groupings of an encoder of `layers` layers: all tasks together, then the two pairs.

    `parting` is the first layer that the pairs do not share: 0 to `layers`. Raises UsageError for another one.
    """
    if not 0 <= parting <= layers:
        raise UsageError(f"planted: the pairs cannot part at layer {parting} of {layers}; give 0 to {layers}")
    together: Grouping = (tuple(name for pair in PLANTED_PAIRS for name in pair),)
    return (together,) * parting + (PLANTED_PAIRS,) * (layers - parting)


@dataclass(frozen=True)
class Picture:
    """What an image shows. `a` and `b` are hidden; cells are indexed by row and column, from the top left.

    `patterns` and `colours` are (4, 4), values 0 to 2; `shifts` (4, 4, 2) is by how many raster points (1/64 of the
    image) a pattern is moved down and right; `gains` (4, 4) is each cell's brightness. The light side is where
    x cos(`angle`) + y sin(`angle`) > `offset`, x and y from -1 to 1 to the right and down; `dark` and `light` are the
    grey levels, 0 to 255.
    """

    a: int
    b: int
    patterns: npt.NDArray[np.int64]
    colours: npt.NDArray[np.int64]
    shifts: npt.NDArray[np.int64]
    gains: npt.NDArray[np.float64]
    angle: float
    offset: float
    dark: int
    light: int


def draw_picture(rng: np.random.Generator) -> Picture:
    """Return a random picture."""
    a, b = (int(value) for value in rng.integers(VALUES, size=2))
    patterns = rng.integers(VALUES, size=(BOARD, BOARD))
    obeys_a = rng.permutation(BOARD * BOARD).reshape(BOARD, BOARD) % 2 == 0
    return Picture(
        a=a,
        b=b,
        patterns=patterns,
        colours=np.where(obeys_a, a - patterns, patterns - b) % VALUES,
        shifts=rng.integers(-1, 2, size=(BOARD, BOARD, 2)),
        gains=rng.uniform(0.8, 1.1, size=(BOARD, BOARD)),
        angle=float(rng.uniform(0, 2 * math.pi)),
        offset=float(rng.uniform(-0.25, 0.25)),
        dark=int(rng.integers(80, 101)),
        light=int(rng.integers(150, 171)),
    )


def light_side(picture: Picture, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels of `size` (height, width) lie on the light side, (H, W)."""
    y, x = ((np.arange(pixels) + 0.5) / pixels * 2 - 1 for pixels in size)
    side: npt.NDArray[np.bool_] = math.cos(picture.angle) * x + math.sin(picture.angle) * y[:, None] > picture.offset
    return side


def render_picture(picture: Picture, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the image of `size` (height, width), (H, W, 3) RGB."""
    rows, columns = ((np.arange(pixels) + 0.5) * _RASTER / pixels for pixels in size)
    points = np.ix_(rows.astype(int), columns.astype(int))
    ground = np.where(light_side(picture, size), picture.light, picture.dark)
    paint = (_COLOURS[picture.colours] * picture.gains[..., None]).clip(max=255).astype(np.uint8)
    painted = _spread(paint)[points]
    return np.where(_ink(picture)[points][..., None], painted, ground[..., None].astype(np.uint8))


def _ink(picture: Picture) -> npt.NDArray[np.bool_]:
    """Return which points of the raster are painted, (64, 64)."""
    within = np.arange(_RASTER) % _CELL - (_CELL - _FILLED) // 2
    row = within[:, None] - _spread(picture.shifts[..., 0])
    column = within - _spread(picture.shifts[..., 1])
    inside = (row >= 0) & (row < _FILLED) & (column >= 0) & (column < _FILLED)
    along_rows, along_columns = row // _BAND % 2 == 0, column // _BAND % 2 == 0
    pattern = _spread(picture.patterns)
    return inside & np.where(
        pattern == 0, along_rows, np.where(pattern == 1, along_columns, along_rows ^ along_columns)
    )


def _spread(cells: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Return (4, 4, ...) values of cells at all points of the raster, (64, 64, ...)."""
    return cells.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """The data set `planted`: `train` and `val` generated images, drawn when loaded; a `bmtas` Dataset.

    `seed` chooses the pictures: equal seeds give equal pictures, whatever the counts, so a larger data set begins with
    the images of the smaller one. `size` is (height, width) of deployment; `load` draws at any size. Raises UsageError
    for counts below 1, a negative seed and sizes below 16 pixels.
    """

    seed: int = 0
    train: int = 2048  # enough for some hundreds of steps not to meet an image many times
    val: int = 256
    size: tuple[int, int] = (64, 64)

    def __post_init__(self) -> None:
        """Check the parameters. Raises UsageError."""
        if self.seed < 0:
            raise UsageError(f"planted: seed {self.seed}; it must be 0 or more")
        for split in SPLITS:
            if self._count(split) < 1:
                raise UsageError(f"planted: {self._count(split)} images in {split}; a split has at least 1")
        _check_size(self.size)

    @property
    def name(self) -> str:
        """`planted`."""
        return "planted"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The four tasks: a1, a2, b1, b2."""
        return TASKS

    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of a split, such as `train-000012`. Raises UsageError for an unknown split."""
        return [f"{split}-{i:06d}" for i in range(self._count(split))]

    def picture(self, split: str, index: int) -> Picture:
        """Return what an image shows. Raises UsageError for an unknown split, IndexError for index."""
        count = self._count(split)
        if not 0 <= index < count:
            raise IndexError(f"planted: image {index} of {split}, which has {count} images")
        return draw_picture(np.random.default_rng([self.seed, SPLITS.index(split), index]))

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Draw image `index` of `split` at `size` (height, width) with the labels of `tasks`.

        The picture does not depend on the size; it is stretched to it. Raises UsageError for an unknown split or task,
        for a task named twice and for a size below 16 pixels, IndexError for an index outside the split.
        """
        if tasks:
            select_tasks(TASKS, list(tasks))
        _check_size(size)
        picture = self.picture(split, index)
        light = light_side(picture, size)
        told = {
            "a1": (picture.a, light),
            "a2": (picture.a, ~light),
            "b1": (picture.b, light),
            "b2": (picture.b, ~light),
        }
        labels = {task: np.where(told[task][1], np.uint8(1 + told[task][0]), np.uint8(0)) for task in tasks}
        return Sample(id=f"{split}-{index:06d}", image=render_picture(picture, size), labels=labels)

    def fingerprint(self) -> str:
        """Return a hash of the generator's version and the parameters.

        The deployment size is left out: at a given size, `load` answers the same whatever it is.
        """
        definition = [VERSION, self.seed, self.train, self.val, [t.to_json() for t in TASKS]]
        return hashlib.sha256(json.dumps(["planted", *definition]).encode()).hexdigest()

    def _count(self, split: str) -> int:
        """Return the number of images of a split. Raises UsageError for an unknown one."""
        if split not in SPLITS:
            raise UsageError(f"planted: unknown split {split!r}; {nearest(split, SPLITS)}")
        return self.train if split == "train" else self.val


def _check_size(size: tuple[int, int]) -> None:
    """Raise UsageError unless both sides have at least 16 pixels."""
    if min(size) < _SMALLEST:
        raise UsageError(f"planted: size {size[0]} x {size[1]} pixels; each side needs at least {_SMALLEST}")

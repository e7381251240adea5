"""What all downloaded data sets have in common: splits of ids, an image and a label file per task and id, one size to work at.

A module of a data set describes its variant as a `Layout`; `Download` makes a `bmtas.data.protocol.Dataset` of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.labels import resize_nearest
from bmtas.data.protocol import GREY, Sample
from bmtas.data.stored import image_size, read_image
from bmtas.errors import UsageError, nearest
from bmtas.extras import require
from bmtas.tasks import Task, TaskKind, invalid_value

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """Where the labels of one task stand and how they are read.

    `find(id)` gives the file of an id's label, or None where that id has none by rule, or had none when the data set was
    opened and need not have one. It gives the same for as long as the data set is open, so that a file that goes missing is
    a fault. `read(path, id)` gives the label in the form of the task's kind (`bmtas.tasks`) at the file's own size, or None
    if the file says that this image has no label; it raises UsageError, naming the file, where the file cannot be read or
    holds what the variant does not allow.
    """

    task: Task
    find: Callable[[str], Path | None]
    read: Callable[[Path, str], Array | None]


@dataclass(frozen=True)
class Layout:
    """One variant of a data set, found in a folder.

    Attributes:
        name: the data set, fit for a file name: `pascal-context`.
        variant: which variant this is, in words: who circulates it, how to tell it from the others.
        root: the folder in which everything stands.
        size: (height, width) to work at; that of the published experiments where there is one.
        splits: the ids of each split, at least `train` and `val`.
        find_image, read_image: an id's image file, and its content as (H, W, 3) uint8 RGB.
        sources: the tasks, in canonical order.
        expected: how many ids each split of the published data has, if it is known.
        pad: images of another shape than `size` keep their aspect and are padded, instead of being resized to it.
        remarks: what a user of this variant should know: units, conventions, what differs from other variants.
        default_tasks: tasks taken where none are named; None stands for all.
        read_image_of: takes the place of `read_image` where a file holds many images; gets the id, too.
    """

    name: str
    variant: str
    root: Path
    size: tuple[int, int]
    splits: Mapping[str, Sequence[str]]
    find_image: Callable[[str], Path]
    read_image: Callable[[Path], npt.NDArray[np.uint8]]
    sources: tuple[Source, ...]
    expected: Mapping[str, int] = field(default_factory=dict)
    pad: bool = False
    remarks: tuple[str, ...] = ()
    default_tasks: tuple[str, ...] | None = None
    read_image_of: Callable[[Path, str], npt.NDArray[np.uint8]] | None = None


class Download:
    """A downloaded data set; implements `bmtas.data.protocol.Dataset`. Opening reads lists; pixels are read by `load`."""

    def __init__(self, layout: Layout) -> None:
        """Take a layout. Raises UsageError if a split is missing, empty, or shares an id with another."""
        self.layout = layout
        self._sources = {source.task.name: source for source in layout.sources}
        self._splits = {split: tuple(ids) for split, ids in layout.splits.items()}
        owner: dict[str, str] = {}
        for split in ("train", "val", *self._splits):
            ids = self._splits.get(split, ())
            if not ids:
                raise UsageError(
                    f"{layout.root}: {layout.name} ({layout.variant}) has no id in its split {split!r}; complete the download"
                )
            for i in ids:
                if owner.setdefault(i, split) != split:
                    raise UsageError(
                        f"{layout.root}: {i!r} is in the splits {owner[i]!r} and {split!r}; a result on images that were "
                        "trained on means nothing: keep each id in one list"
                    )

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.layout.name

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in canonical order."""
        return tuple(source.task for source in self.layout.sources)

    @property
    def default_tasks(self) -> tuple[str, ...] | None:
        """Names of the tasks to take where none are named; None stands for all."""
        return self.layout.default_tasks

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) to work at."""
        return self.layout.size

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; `train` and `val` are among them."""
        return tuple(self._splits)

    def ids(self, split: str) -> tuple[str, ...]:
        """Return the ids of `split`, in the order of its list. Raises UsageError for an unknown split."""
        if split not in self._splits:
            raise UsageError(f"unknown split {split!r}; {nearest(split, self._splits)}")
        return self._splits[split]

    def label_count(self, task: str) -> int:
        """Return for how many of the images in the splits there is a file with a label of `task`."""
        find = self._source(task).find
        paths = (find(i) for ids in self._splits.values() for i in ids)
        return sum(path is not None and path.is_file() for path in paths)

    def missing(self, tasks: Sequence[str] | None = None) -> list[Path]:
        """Return the files that the variant asks for and that are not there, of images and of labels.

        `tasks` names the tasks whose labels are looked for (None: all). Raises UsageError for an unknown one.
        """
        asked = [self._source(name) for name in (self._sources if tasks is None else tasks)]
        every = (path for ids in self._splits.values() for i in ids for path in self._files(i, asked))
        return [path for path in dict.fromkeys(every) if not path.is_file()]

    def missing_of(self, split: str, index: int, tasks: Sequence[str]) -> list[Path]:
        """Return those of `missing` that belong to image `index` of `split`."""
        files = self._files(self.ids(split)[index], [self._source(name) for name in tasks])
        return [path for path in files if not path.is_file()]

    def labelled(self, split: str, tasks: Sequence[str]) -> list[int]:
        """Return the indices in `split` of the images with a file for a label of one of `tasks`.

        Raises UsageError for unknown names.
        """
        asked = [self._source(name) for name in tasks]
        return [n for n, i in enumerate(self.ids(split)) if any(source.find(i) is not None for source in asked)]

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Return image `index` of `split` at `size` (height, width) with those labels of `tasks` that it has.

        Raises UsageError naming the file where one is missing, cannot be read, has another size than its image or holds
        a wrong value, and for unknown names; IndexError beyond the split's end.
        """
        sample_id = self.ids(split)[index]
        path = self.layout.find_image(sample_id)
        read_of = self.layout.read_image_of
        image = self.layout.read_image(path) if read_of is None else read_of(path, sample_id)
        own = (image.shape[0], image.shape[1])
        inner = self._inner(own, size)
        labels: dict[str, Array] = {}
        for name in tasks:
            label = self._label(self._source(name), sample_id, path, own)
            if label is not None:
                labels[name] = _fitted(label, self._source(name).task.kind, inner, size)
        resized = _padded(_resized(image, inner), size, GREY)
        return Sample(sample_id, resized, labels)

    def fingerprint(self) -> str:
        """Return a hash of the variant, the tasks, the size, and the ids with the sizes of their files.

        Places and times are left out: a copy of the folder has the same hash.
        """
        head = [self.layout.name, self.layout.variant, self.layout.size, [task.to_json() for task in self.tasks]]
        splits = {split: [[i, *self._sizes(i)] for i in ids] for split, ids in self._splits.items()}
        return hashlib.sha256(json.dumps([head, splits], sort_keys=True).encode()).hexdigest()

    def _source(self, task: str) -> Source:
        if task not in self._sources:
            raise UsageError(f"unknown task {task!r}; {nearest(task, self._sources)}")
        return self._sources[task]

    def _sizes(self, sample_id: str) -> list[int | None]:
        files = self._files(sample_id, self._sources.values())
        return [path.stat().st_size if path.is_file() else None for path in files]

    def _files(self, sample_id: str, sources: Iterable[Source]) -> list[Path]:
        """Return the file of an image, and those of its labels."""
        labels = (source.find(sample_id) for source in sources)
        return [self.layout.find_image(sample_id), *(path for path in labels if path is not None)]

    def _label(self, source: Source, sample_id: str, image: Path, own: tuple[int, int]) -> Array | None:
        path = source.find(sample_id)
        if path is None:
            return None
        label = source.read(path, sample_id)
        if label is not None and source.task.dense and label.shape[:2] != own:
            raise UsageError(
                f"{path} is {label.shape[0]} high and {label.shape[1]} wide but its image {image} is {own[0]} high and "
                f"{own[1]} wide; they belong to different variants or sizes of {self.layout.name}: download them together"
            )
        return label

    def _inner(self, own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which an image of size `own` lies within `size`."""
        if not self.layout.pad:
            return size
        # As much smaller as the size asked for is than the one to work at; never beyond the frame.
        scale = min(*(asked / full for asked, full in zip(size, self.layout.size, strict=True)))
        scale = min(scale, *(asked / side for asked, side in zip(size, own, strict=True)))
        height, width = (max(1, min(asked, round(side * scale))) for side, asked in zip(own, size, strict=True))
        return height, width


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8 RGB at its own size. Raises UsageError if it is missing or no image."""
    return read_image(path, image_size(path))[0]


def _resized(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) at `size`, bilinear and antialiased."""
    if image.shape[:2] == size:
        return image
    pil = require("PIL.Image", "host")
    smaller = pil.fromarray(image).resize((size[1], size[0]), pil.Resampling.BILINEAR)
    return np.array(smaller, dtype=np.uint8)


def _fitted(label: Array, kind: TaskKind, inner: tuple[int, int], size: tuple[int, int]) -> Array:
    if kind is TaskKind.CLASSIFICATION:
        return label
    return _padded(resize_nearest(label, inner), size, invalid_value(kind))


def _padded(array: Array, size: tuple[int, int], fill: float) -> Array:
    """Return `array` in the upper left corner of a frame of `size`."""
    if array.shape[:2] == size:
        return array
    frame = np.full((*size, *array.shape[2:]), fill, dtype=array.dtype)
    frame[: array.shape[0], : array.shape[1]] = array
    return frame

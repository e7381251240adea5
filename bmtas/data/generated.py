"""What generated data sets have in common: splits of any length, ids, sizes, and a fingerprint of their definition."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bmtas.data.protocol import Sample
from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, select_tasks

SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Generated(ABC):
    """`train` and `val` images, made when loaded; a `bmtas` Dataset.

    `seed` chooses what is shown: equal seeds give equal images, whatever the counts, so a larger data set begins with the
    images of the smaller one. `size` is (height, width) of deployment; `load` makes any size. Raises UsageError for
    counts below 1, a negative seed and sizes below `smallest` pixels.
    """

    title: ClassVar[str]
    version: ClassVar[int]
    all_tasks: ClassVar[tuple[Task, ...]]
    smallest: ClassVar[int]

    seed: int = 0
    train: int
    val: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the parameters. Raises UsageError."""
        if self.seed < 0:
            raise UsageError(f"{self.title}: seed {self.seed}; it must be 0 or more")
        for split in SPLITS:
            if self._count(split) < 1:
                raise UsageError(f"{self.title}: {self._count(split)} images in {split}; a split has at least 1")
        self._check_size(self.size)

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.title

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of its tasks."""
        return self.all_tasks

    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of a split, such as `train-000012`. Raises UsageError for an unknown split."""
        return [self._id(split, i) for i in range(self._count(split))]

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Make image `index` of `split` at `size` (height, width) with the labels of `tasks`.

        What is shown does not depend on the size. Raises UsageError for an unknown split or task, for a task named twice
        and for a size below `smallest` pixels, IndexError for an index outside the split.
        """
        if tasks:
            select_tasks(self.all_tasks, list(tasks))
        self._check_size(size)
        return self._made(split, index, size, tasks)

    def fingerprint(self) -> str:
        """Return a hash of the generator's version and the parameters.

        The deployment size is left out: at a given size, `load` answers the same whatever it is.
        """
        definition = [self.version, self.seed, self.train, self.val, [t.to_json() for t in self.all_tasks]]
        return hashlib.sha256(json.dumps([self.title, *definition]).encode()).hexdigest()

    @abstractmethod
    def _made(self, split: str, index: int, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Return what `load` does, its arguments checked but for the split and the index."""

    def _random(self, split: str, index: int) -> np.random.Generator:
        """Return the source of all that is random in an image. Raises UsageError for an unknown split, IndexError for an index outside it."""
        count = self._count(split)
        if not 0 <= index < count:
            raise IndexError(f"{self.title}: image {index} of {split}, which has {count} images")
        return np.random.default_rng([self.seed, SPLITS.index(split), index])

    def _id(self, split: str, index: int) -> str:
        return f"{split}-{index:06d}"

    def _count(self, split: str) -> int:
        """Return the number of images of a split. Raises UsageError for an unknown one."""
        if split not in SPLITS:
            raise UsageError(f"{self.title}: unknown split {split!r}; {nearest(split, SPLITS)}")
        return self.train if split == "train" else self.val

    def _check_size(self, size: tuple[int, int]) -> None:
        if min(size) < self.smallest:
            raise UsageError(
                f"{self.title}: size {size[0]} x {size[1]} pixels; each side needs at least {self.smallest}"
            )

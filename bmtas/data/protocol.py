"""What every data set gives: the one protocol behind which generators, folders and downloads stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from bmtas.tasks import Task

GREY = 127
"""What stands outside an image: the middle of the intensity range."""


@dataclass(frozen=True)
class Sample:
    """One image with its labels.

    `image` is (H, W, 3) uint8 RGB. `labels` maps a task's name to its label in the form of `bmtas.tasks`;
    a task without a label for this image is absent.
    """

    id: str
    image: npt.NDArray[np.uint8]
    labels: Mapping[str, npt.NDArray[np.generic]]


class Dataset(Protocol):
    """Images with labels for several tasks, in named splits (at least `train` and `val`)."""

    @property
    def name(self) -> str:
        """Short name, fit for a file name."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks that have labels here, in their canonical order."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which the network is meant to be deployed."""

    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of a split, in a fixed order. Raises UsageError for an unknown split."""

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Return image `index` of `split` at `size` (height, width) with the labels of `tasks`.

        Images are resampled smoothly, labels by nearest neighbour. Raises UsageError where a file breaks a rule.
        """

    def fingerprint(self) -> str:
        """Return a hash that changes when the data's definition changes; equal data give equal hashes."""


@runtime_checkable
class TellsLabelled(Protocol):
    """What a data set whose images lack labels may have besides: which images have any, without reading pixels."""

    def labelled(self, split: str, tasks: Sequence[str]) -> Sequence[int]:
        """Return the indices in `split`, ascending, of the images that can have a label of one of `tasks`.

        Raises UsageError for unknown names.
        """

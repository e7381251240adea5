"""A sample in the mirror, by the augmentation that training uses."""

from __future__ import annotations

from typing import Any

import numpy as np

from bmtas.data.augment import Augmentation, augment
from bmtas.data.protocol import Sample
from bmtas.tasks import Task


class _Zeros:
    """In place of chance: the first choice, and 0 as every number, so that every image is mirrored."""

    def choice(self, options: Any) -> Any:
        return options[0]

    def random(self, size: int | None = None) -> Any:
        return 0.0 if size is None else np.zeros(size)


def mirrored(sample: Sample, tasks: tuple[Task, ...]) -> Sample:
    chance: Any = _Zeros()
    return augment(sample, tasks, Augmentation(flip=True, scales=(1.0,)), chance)

"""How far an exported output is from PyTorch's, in the units in which a user of the task thinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bmtas.tasks import TaskKind
from export.sessions.protocol import Array

CUT = 0.5
"""Probability from which a pixel of a binary or edge map counts as positive."""


class Unit(Protocol):
    """Collects pairs of outputs image by image, then gives one number."""

    name: str
    better_is_less: bool

    def update(self, reference: Array, value: Array) -> None:
        """Take the final predictions of one image (N = 1)."""

    def compute(self) -> float:
        """Return the number over all images; NaN or infinite where values that are not finite leave none."""


def final_prediction(kind: TaskKind, raw: Array) -> Array:
    """Map raw outputs (N, channels, ...) to final ones, as the exported graph does with `--outputs predictions`.

    Class ids (N, ...) for kinds with classes, probabilities for binary and edge, unit vectors (N, 3, ...) for normals; depth
    and regression stay as they are.
    """
    if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION):
        return raw.argmax(axis=1)
    if kind in (TaskKind.BINARY, TaskKind.EDGE):
        with np.errstate(over="ignore"):  # beyond 709 the probability is 0 all the same
            return np.asarray(1 / (1 + np.exp(-raw.astype(np.float64))))
    if kind is TaskKind.NORMALS:
        length = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(raw / np.maximum(length, 1e-12))
    return raw


def build_unit(kind: TaskKind) -> Unit:
    """Return the unit of a kind of task."""
    if kind is TaskKind.SEGMENTATION:
        return _ChangedClass("share of pixels that change class")
    if kind is TaskKind.CLASSIFICATION:
        return _ChangedClass("share of images that change class")
    if kind in (TaskKind.BINARY, TaskKind.EDGE):
        return MapUnit()
    if kind is TaskKind.NORMALS:
        return _MeanAngle()
    return _RelativeDifference("relative depth" if kind is TaskKind.DEPTH else "relative difference")


@dataclass
class _ChangedClass:
    name: str
    better_is_less: bool = True
    _changed: int = 0
    _all: int = 0

    def update(self, reference: Array, value: Array) -> None:
        self._changed += int((reference != value).sum())
        self._all += reference.size

    def compute(self) -> float:
        return self._changed / max(self._all, 1)


@dataclass
class MapUnit:
    """F-measure of a map of probabilities against PyTorch's, both cut at `CUT`; 1 where neither has a positive pixel.

    There the F-measure proves nothing, so the probabilities themselves are compared too.
    """

    name: str = "F-measure against PyTorch's map"
    better_is_less: bool = False
    _both: int = 0
    _wanted: int = 0
    _got: int = 0
    _difference: float = 0.0
    _all: int = 0

    def update(self, reference: Array, value: Array) -> None:
        """Take the probabilities of one image."""
        wanted, got = reference >= CUT, value >= CUT
        self._both += int((wanted & got).sum())
        self._wanted += int(wanted.sum())
        self._got += int(got.sum())
        self._difference += float(np.abs(reference.astype(np.float64) - value).sum())
        self._all += reference.size

    def compute(self) -> float:
        """Return the F-measure over all images."""
        either = self._wanted + self._got
        return 2 * self._both / either if either else 1.0

    def probability_difference(self) -> float:
        """Return the mean absolute difference of the probabilities over all pixels of all images."""
        return self._difference / max(self._all, 1)

    def positives(self) -> float:
        """Return the share of PyTorch's pixels that are at `CUT` or above."""
        return self._wanted / max(self._all, 1)


@dataclass
class _MeanAngle:
    name: str = "mean angle, degrees"
    better_is_less: bool = True
    _sum: float = 0.0
    _all: int = 0

    def update(self, reference: Array, value: Array) -> None:
        a, b = reference.astype(np.float64), value.astype(np.float64)
        # The arc sine of half the chord keeps its digits at small angles, where the arc cosine loses them.
        chord = np.linalg.norm(a - b, axis=1) / 2
        angles = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
        self._sum += float(angles.sum())
        self._all += angles.size

    def compute(self) -> float:
        return self._sum / max(self._all, 1)


@dataclass
class _RelativeDifference:
    """Sum of absolute differences over the sum of absolute references."""

    name: str
    better_is_less: bool = True
    _difference: float = 0.0
    _reference: float = 0.0

    def update(self, reference: Array, value: Array) -> None:
        a, b = reference.astype(np.float64), value.astype(np.float64)
        self._difference += float(np.abs(a - b).sum())
        self._reference += float(np.abs(a).sum())

    def compute(self) -> float:
        if not self._difference:
            return 0.0
        return self._difference / self._reference if self._reference else float("inf")

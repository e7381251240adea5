"""Label files of downloaded data sets to arrays in the in-memory forms of `bmtas.tasks`, each value checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.mat import read_mat
from bmtas.data.labels import colour_vectors, unit_normals
from bmtas.data.stored import ONE_CHANNEL, Array, array_shape, described, read_raw
from bmtas.errors import UsageError
from bmtas.tasks import IGNORE

_FARTHEST = 100.0  # metres; no indoor camera sees farther: larger numbers are of another unit
_LOSSY = 8  # levels by which JPEG displaces flat areas at the qualities in use


@dataclass(frozen=True)
class Coding:
    """Which numbers stand for classes in files: `count` ids from `first` on, and `ignored` for no class."""

    variant: str
    first: int
    count: int
    ignored: int

    def strange(self, raw: Array) -> npt.NDArray[np.bool_]:
        """Return where `raw` (H, W) holds neither a class nor the ignored value; NaN is strange."""
        known = (raw >= self.first) & (raw < self.first + self.count) & (raw == np.floor(raw))
        strange: npt.NDArray[np.bool_] = ~(known | (raw == self.ignored))
        return strange

    def __str__(self) -> str:
        """Return the rule in words."""
        return f"{self.first} to {self.first + self.count - 1} and {self.ignored} for what is ignored ({self.variant})"


def read_plane(path: Path, key: str = "") -> Array:
    """Return the single channel (H, W) of numbers in an image, an .npy or a .mat file (its variable `key`).

    A last axis of length 1 is dropped. Raises UsageError if the file cannot be read or holds something else.
    """
    raw, mode = (read_mat(path, key), "mat") if path.suffix == ".mat" else read_raw(path)
    if mode == "npy" and raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[:, :, 0]
    if raw.ndim != 2 or mode not in (*ONE_CHANNEL, "npy", "mat") or raw.dtype.kind not in "biuf" or not raw.size:
        raise UsageError(
            f"{path} holds {described(raw, mode)}; a single channel of numbers (height, width) belongs here"
        )
    return raw


def class_ids(path: Path, raw: Array, coding: Coding, others: Sequence[Coding] = ()) -> npt.NDArray[np.uint8]:
    """Return class ids from 0, (H, W) uint8 with 255 for what is ignored, of the numbers `raw` (H, W) in `path`.

    Raises UsageError for any other number, naming that of the codings `others` which all numbers would fit.
    """
    strange = coding.strange(raw)
    if strange.any():
        looks = next((f": it looks like {other}" for other in others if not other.strange(raw).any()), "")
        raise UsageError(
            f"{path}: value {float(raw[strange][0]):g} ({int(strange.sum())} pixels hold it or another such value) is none of "
            f"{coding}{looks}; replace the file by the one of this variant"
        )
    codes = np.where(raw == coding.ignored, IGNORE, raw.astype(np.int64) - coding.first)
    return codes.astype(np.uint8)


def metres(path: Path, raw: Array) -> npt.NDArray[np.float32]:
    """Return depth in metres, (H, W) float32; NaN where `raw` (H, W) is not above 0, not finite or 255 (ignored).

    Raises UsageError where a number is larger than a depth in metres can be.
    """
    valid = np.isfinite(raw) & (raw > 0) & (raw != IGNORE)
    known = raw[valid]
    if known.size and known.max() > _FARTHEST:
        raise UsageError(
            f"{path}: value {known.max():g} is no depth of a room in metres (at most {_FARTHEST:g}); it looks like "
            "millimetres or another unit: take the file in metres"
        )
    return np.where(valid, raw, np.nan).astype(np.float32)


def coloured_normals(path: Path, axes: tuple[int, int, int], signs: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return normals n = 2 px / 255 - 1 of an RGB image, (H, W, 3) float32 unit vectors.

    The axes x, y, z stand in the channels `axes` and are multiplied by `signs`. White, black and middle grey are no unit
    vectors and stand for no normal, (0, 0, 0); in JPEG what is close to them too. Raises UsageError if it is no RGB image.
    """
    colours, mode = read_raw(path)
    if mode not in ("RGB", "RGBA"):
        raise UsageError(f"{path} holds {described(colours, mode)}; normals are an RGB image: replace the file")
    vectors, valid = colour_vectors(colours[..., :3], off=_LOSSY if path.suffix.lower() in (".jpg", ".jpeg") else 0)
    return unit_normals(vectors[..., list(axes)] * np.array(signs), valid)


def array_normals(path: Path) -> npt.NDArray[np.float32]:
    """Return normals of an .npy file of vectors (H, W, 3), as float32 unit vectors.

    Zero vectors, those that are not finite and those of 255 (ignored) become (0, 0, 0). Raises UsageError if the file
    holds no floats of this shape or components beyond [-1, 1].
    """
    raw, mode = read_raw(path)
    if mode != "npy" or raw.ndim != 3 or raw.shape[2] != 3 or raw.dtype.kind != "f":
        raise UsageError(
            f"{path} holds {described(raw, mode)}; normals are floats of shape (height, width, 3) in this variant: replace the file"
        )
    valid = np.isfinite(raw).all(axis=2) & ~(raw == IGNORE).all(axis=2)
    largest = np.abs(raw[valid]).max(initial=0)
    if largest > 1.01:  # a little more comes from resampling and half precision
        raise UsageError(
            f"{path}: a component of a normal is {largest:g}; unit vectors have components from -1 to 1: it looks like "
            "colours from 0 to 255, which other variants have as images: replace the file"
        )
    return unit_normals(raw, valid)


def read_array_image(path: Path, beyond: float = 0.0) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) uint8 RGB of an .npy file of floats from 0 to 1.

    What lies up to `beyond` outside of this range is cut off. Raises UsageError if the file holds something else.
    """
    values, mode = read_raw(path)
    if mode != "npy" or values.ndim != 3 or values.shape[2] != 3 or not values.size:
        raise UsageError(
            f"{path} holds {described(values, mode)}; an image of this variant is an array (height, width, 3): download it again"
        )
    low, high = float(values.min()), float(values.max())
    if not (values.dtype.kind == "f" and low >= -beyond and high <= 1 + beyond):  # also false for NaN
        raise UsageError(
            f"{path} holds {values.dtype} from {low:g} to {high:g}; images of this variant are RGB as floats from 0 to 1: "
            "download it again or divide by 255"
        )
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def array_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the image in an .npy file, from its header. Raises UsageError if it holds none."""
    shape = array_shape(path)
    if len(shape) != 3 or shape[2] != 3:
        raise UsageError(
            f"{path} has the shape {shape}; an image of this variant is (height, width, 3): download it again"
        )
    return shape[0], shape[1]

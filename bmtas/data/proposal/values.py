"""What the pixels of label files are, in numbers: of each file by itself, and of all together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bmtas.data.chosen import spread
from bmtas.data.proposal.looks import colours_of, directions, equal_neighbours, is_grey, unit_vectors
from bmtas.data.stored import ONE_CHANNEL, Array, described, read_raw
from bmtas.errors import UsageError

_T = TypeVar("_T")

SAMPLED = 50
"""Files of each task that are looked at closely."""

_MOST_VALUES = 512  # distinct ones of a file that are kept; more are no ids
_MOST_PIXELS = 1 << 18  # that statistics of measures are taken from
_WHITE = 255  # foreground in one convention, ignored in another
_WHITE_16 = 65535
_LEAST_VALID = 0.02


@dataclass(frozen=True)
class Turning:
    """How the channels of normals go with the picture: mean sign, correlation with the column and with the row, each (3,)."""

    sign: npt.NDArray[np.float64]
    along_x: npt.NDArray[np.float64]
    along_y: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pixels:
    """What one label file holds.

    Attributes:
        what: the file's type in words.
        mode, dtype, shape: Pillow's mode or `npy`, the array's type and shape.
        values: the distinct values, ascending; None for colours, fractions, and where there are more than an id could be.
        distinct: how many distinct values, or colours.
        low, high, quantiles: the least and greatest finite value that is not 0; 5, 50 and 99 % of those. 65535 is left out.
        top: share of pixels that are 65535.
        zero, wrong: shares of pixels that are 0, and that are no finite number.
        flat: share of pixels that equal the one to their left.
        step: greatest common divisor of the values, 1 for fractions.
        part, core: share of pixels that are neither 0 nor 255, and of those the share whose eight neighbours are so, too.
        part_255, core_255: the same of pixels that are 255.
        grey, unit: for colours: three equal channels; the share of vectors of length 1, nan where none is valid.
        turning: for vectors, None where hardly any is valid.
    """

    what: str
    mode: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    values: tuple[int, ...] | None = None
    distinct: int = 0
    low: float = math.nan
    high: float = math.nan
    quantiles: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    top: float = 0.0
    zero: float = 0.0
    wrong: float = 0.0
    flat: float = 0.0
    step: int = 1
    part: float = 0.0
    core: float = 0.0
    part_255: float = 0.0
    core_255: float = 0.0
    grey: bool = False
    unit: float = 0.0
    turning: Turning | None = None

    @property
    def single(self) -> bool:
        """Whether the file has one value per pixel that the readers of labels take."""
        return len(self.shape) == 2 and (self.mode == "npy" or self.mode in ONE_CHANNEL)

    @property
    def coloured(self) -> bool:
        """Whether the file has three values per pixel: colours, or an array (height, width, 3)."""
        return self.mode in ("RGB", "RGBA") or (self.mode == "npy" and self.shape[2:] == (3,))


def look_at(files: Sequence[Path], tick: Callable[[], None]) -> tuple[list[Pixels], list[str]]:
    """Return what a sample of `files`, spread over them, hold, and what could not be read. `tick` is called for each."""
    chosen = [files[i] for i in spread(len(files), SAMPLED)]
    return _each(_pixels_of, chosen, tick)


def count_values(files: Sequence[Path], tick: Callable[[], None]) -> tuple[dict[int, int], list[str]]:
    """Return for each value in how many of `files` it is, and what could not be read. `tick` is called for each."""
    found, problems = _each(_values_of, files, tick)
    counts: Counter[int] = Counter(value for values in found for value in values)
    return dict(sorted(counts.items())), problems


def sample_size(files: Sequence[Path]) -> int:
    """Return how many files `look_at` reads."""
    return min(len(files), SAMPLED)


def _each(look: Callable[[Path], _T], files: Sequence[Path], tick: Callable[[], None]) -> tuple[list[_T], list[str]]:
    """Return what `look` makes of each file, two at a time, and the messages of those that it could not read."""
    found: list[_T] = []
    problems: list[str] = []

    def one(path: Path) -> tuple[_T | None, str]:
        try:
            return look(path), ""
        except UsageError as error:
            return None, str(error)

    with ThreadPoolExecutor(max_workers=2) as pool:  # decoding releases the interpreter for most of its time
        for result, problem in pool.map(one, files):
            if result is None:
                problems.append(problem)
            else:
                found.append(result)
            tick()
    return found, problems


def _values_of(path: Path) -> tuple[int, ...]:
    raw, mode = read_raw(path)
    if raw.ndim != 2 or raw.dtype.kind not in "biu":
        raise UsageError(
            f"{path} holds {described(raw, mode)}, unlike the other files of its task; "
            "convert it, or take it out of the folder"
        )
    return _distinct(raw)


def _distinct(raw: Array) -> tuple[int, ...]:
    """Return the distinct values of whole numbers, ascending."""
    if raw.dtype == np.uint8:
        return tuple(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist())
    return tuple(int(value) for value in np.unique(raw))


def _pixels_of(path: Path) -> Pixels:
    raw, mode = read_raw(path)
    what = described(raw, mode).split(",")[0] if mode != "npy" else f"arrays of {raw.dtype}"
    pixels = Pixels(what, mode, raw.dtype, raw.shape)
    if pixels.single and raw.size and raw.dtype.kind in "biu":
        return _whole_numbers(pixels, raw)
    if pixels.single and raw.size and raw.dtype.kind == "f":
        return replace(pixels, **_measures(raw), flat=equal_neighbours(raw))
    if raw.ndim == 3 and raw.shape[2] in (3, 4) and raw.dtype == np.uint8:
        colours = raw[..., :3]
        vectors, valid = directions(colours)
        known = replace(pixels, distinct=colours_of(colours), grey=is_grey(colours))
        return replace(known, unit=_unit(vectors, valid), turning=_turning(vectors, valid))
    if raw.ndim == 3 and raw.shape[2] == 3 and raw.dtype.kind == "f":
        valid = np.asarray(np.isfinite(raw).all(axis=2) & (np.abs(raw) > 0).any(axis=2))
        return replace(pixels, unit=_unit(raw, valid), turning=_turning(raw, valid))
    return pixels


def _whole_numbers(pixels: Pixels, raw: Array) -> Pixels:
    values = _distinct(raw)
    other = (raw != 0) & (raw != _WHITE)
    white = raw == _WHITE
    return replace(
        pixels,
        values=values if len(values) <= _MOST_VALUES else None,
        distinct=len(values),
        flat=equal_neighbours(raw),
        step=math.gcd(*values),
        part=float(other.mean()),
        core=_core(other),
        part_255=float(white.mean()),
        core_255=_core(white),
        **_measures(raw),
    )


def _measures(raw: Array) -> dict[str, Any]:
    """Return what is known of measures: range, quantiles, and how many pixels have none."""
    every = max(1, math.isqrt(raw.size // _MOST_PIXELS))
    some = raw[::every, ::every]
    finite = np.isfinite(some)
    white = some == _WHITE_16
    known = some[finite & (some != 0) & ~white].astype(np.float64)
    shares = {"zero": float((some == 0).mean()), "wrong": float(1 - finite.mean()), "top": float(white.mean())}
    if not known.size:
        return shares
    low, middle, high = np.quantile(known, (0.05, 0.5, 0.99)).tolist()
    return {**shares, "low": float(known.min()), "high": float(known.max()), "quantiles": (low, middle, high)}


def _core(mask: npt.NDArray[np.bool_]) -> float:
    """Return the share of the pixels of `mask` (H, W) whose eight neighbours are in it, too; 0 for an empty one."""
    if min(mask.shape) < 3 or not mask.any():
        return 0.0
    rows = mask[:-2] & mask[1:-1] & mask[2:]
    return float((rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]).sum() / mask.sum())


def _unit(vectors: Array, valid: npt.NDArray[np.bool_]) -> float:
    """Return the share of the valid vectors of (H, W, 3) whose length is 1, nan where none is valid."""
    return unit_vectors(vectors[valid]) if valid.any() else math.nan


def _turning(vectors: Array, valid: npt.NDArray[np.bool_]) -> Turning | None:
    """Return how the channels of (H, W, 3) go with the picture; None where hardly a pixel is valid."""
    if not valid.size or valid.mean() < _LEAST_VALID:
        return None
    rows, columns = np.nonzero(valid)
    known = vectors[valid].astype(np.float64)
    sign = np.sign(known).mean(axis=0)
    along = [np.array([_correlation(known[:, c], place) for c in range(3)]) for place in (columns, rows)]
    return Turning(sign, along[0], along[1])


def _correlation(values: npt.NDArray[np.float64], place: npt.NDArray[np.intp]) -> float:
    if values.std() == 0 or place.std() == 0:
        return 0.0
    return float(np.corrcoef(values, place)[0, 1])

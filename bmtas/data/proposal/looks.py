"""What a file looks like before anything is known of it: a photograph or not, vectors as colours, few colours."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.labels import colour_vectors
from bmtas.data.stored import read_raw
from bmtas.errors import UsageError

MANY_COLOURS = 1000
"""Distinct colours from which on a picture is no drawing of classes."""

_UNIT = 0.1  # how far the length of a decoded normal may be from 1; 8 bits leave 0.007, resampling and JPEG more
_NO_VECTOR = 0.01  # a length up to which a decoded normal is none: 127 or 128 in all channels is how 8 bits hold zero
_LEAST_GREYS = 64  # of a grey photograph
_FLAT = 0.5  # share of equal neighbours from which on a grey picture is a drawing


@lru_cache(maxsize=4096)
def is_photograph(path: Path) -> bool:
    """Return whether a file looks like a photograph: many colours that are no unit vectors, or a JPEG."""
    if path.suffix.lower() == ".npy":
        return False
    try:
        raw, mode = read_raw(path)
    except UsageError:
        return False
    if mode in ("RGB", "RGBA"):
        colours = raw[..., :3]
        return colours_of(colours) >= MANY_COLOURS and not is_grey(colours) and unit_share(colours) < 0.5
    if mode != "L":
        return False
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    return jpeg and np.unique(raw).size >= _LEAST_GREYS and equal_neighbours(raw) < _FLAT


def colours_of(colours: npt.NDArray[np.uint8]) -> int:
    """Return how many distinct colours (H, W, 3) uint8 holds."""
    wide = colours.astype(np.uint32)
    return int(np.unique((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]).size)


def is_grey(colours: npt.NDArray[np.uint8]) -> bool:
    """Return whether the three channels of (H, W, 3) are the same."""
    return bool((colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all())


def unit_share(colours: npt.NDArray[np.uint8]) -> float:
    """Return the share of valid pixels of (H, W, 3) uint8 that are vectors of length 1; 0 if none is valid."""
    vectors, valid = directions(colours)
    return unit_vectors(vectors[valid])


def directions(colours: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the vectors of `colours` (H, W, 3) as labels of normals are read, and where (H, W) they have a direction."""
    vectors, valid = colour_vectors(colours)
    return vectors, valid & (np.linalg.norm(vectors, axis=2) > _NO_VECTOR)


def unit_vectors(vectors: npt.NDArray[np.floating]) -> float:
    """Return the share of (N, 3) vectors whose length is 1 within a tenth; 0 for none."""
    if not len(vectors):
        return 0.0
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return float((np.abs(lengths - 1) < _UNIT).mean())


def equal_neighbours(raw: npt.NDArray[np.generic]) -> float:
    """Return the share of pixels of (H, W) that equal the one to their left."""
    return float((raw[:, 1:] == raw[:, :-1]).mean()) if raw.shape[1] > 1 else 1.0

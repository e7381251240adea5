"""Textures of the ray-caster: how the two colours of a material mix at a point. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
"""Arrays of single precision."""

Vec = tuple[float, float, float]
"""A point or direction (metres), or a colour (RGB, each 0 to 1)."""


class Pattern(str, Enum):
    """How two colours mix. The last four fill [-1, 1] x [-1, 1], that is a panel; the others have no end."""

    PLAIN = "plain"
    STRIPES = "stripes"
    CHECKER = "checker"
    PLANKS = "planks"
    BRICKS = "bricks"
    NOISE = "noise"
    WINDOW = "window"
    DOOR = "door"
    PICTURE = "picture"
    RUG = "rug"


@dataclass(frozen=True, kw_only=True)
class Material:
    """Two RGB colours, a pattern that mixes them, where it begins (`origin`) and the size of its `cell`.

    Coordinates are (coordinate - origin) / cell, so a cell that is endless along an axis makes the pattern
    the same along it. `glow` is the share of the colour that is seen whatever the light, 0 to 1.
    """

    pattern: Pattern
    colours: tuple[Vec, Vec]
    origin: Vec = (0.0, 0.0, 0.0)
    cell: Vec = (1.0, 1.0, 1.0)
    glow: float = 0.0


def mix(material: Material, x: F32, y: F32, z: F32) -> F32:
    """Return the weight of the second colour, 0 to 1, at points of a surface.

    The coordinates, (n,) each, are metres: (u, v, 0) on the room, the solid's own axes on a solid. On panels
    they are (u, v, 0) with u and v from -1 to 1.
    """
    (ox, oy, oz), (cx, cy, cz) = material.origin, material.cell
    x, y, z = (x - ox) / cx, (y - oy) / cy, (z - oz) / cz
    pattern = material.pattern
    if pattern is Pattern.PLAIN:
        return np.zeros_like(x)
    if pattern is Pattern.NOISE:
        return _noise(x, y, z)
    if pattern is Pattern.STRIPES:
        return _as_float(_odd(np.floor(x + y + z)))
    if pattern is Pattern.CHECKER:
        return _as_float(_odd(np.floor(x) + np.floor(y) + np.floor(z)))
    if pattern in (Pattern.PLANKS, Pattern.BRICKS):
        return _courses(x, y, joints=pattern is Pattern.BRICKS)
    return _panel(pattern, x, y, z)


def _panel(pattern: Pattern, x: F32, y: F32, z: F32) -> F32:
    """Return the mix of the patterns that fill [-1, 1] x [-1, 1]."""
    ax, ay = np.abs(x), np.abs(y)
    outer = np.maximum(ax, ay)
    if pattern is Pattern.WINDOW:
        return _as_float((outer > 0.88) | (ax < 0.06) | (ay < 0.05))
    if pattern is Pattern.DOOR:
        return _as_float((ax < 0.7) & (ay > 0.08) & (ay < 0.88))
    if pattern is Pattern.PICTURE:
        return np.where(outer > 0.8, np.float32(1), _noise(2 * x, 2 * y, z) * np.float32(0.7))
    return _as_float(_odd(np.floor(outer * 5)))  # rug


def _courses(x: F32, y: F32, *, joints: bool) -> F32:
    """Return courses of pieces, every other one moved by half a piece: of random tones, or with joints."""
    row = np.floor(y)
    x = x + np.float32(0.5) * _as_float(_odd(row))
    column = np.floor(x)
    if joints:
        # Joints are as wide along both axes only if pieces are 3 times as long as high.
        return _as_float((x - column < 0.05) | (y - row < 0.15))
    return _hash(_lattice(column), _lattice(row), np.zeros(x.shape, np.uint32))


def _noise(x: F32, y: F32, z: F32) -> F32:
    """Return value noise, 0 to 1: random values on the integer lattice, smoothly interpolated between."""
    floors = [np.floor(c) for c in (x, y, z)]
    low = [_lattice(f) for f in floors]
    weight = []
    for c, f in zip((x, y, z), floors, strict=True):
        t = c - f
        weight.append(t * t * (3 - 2 * t))
    one = np.uint32(1)
    planes = []
    for dz in (low[2], low[2] + one):
        rows = []
        for dy in (low[1], low[1] + one):
            a, b = _hash(low[0], dy, dz), _hash(low[0] + one, dy, dz)
            rows.append(a + (b - a) * weight[0])
        planes.append(rows[0] + (rows[1] - rows[0]) * weight[1])
    return planes[0] + (planes[1] - planes[0]) * weight[2]


def _lattice(whole: F32) -> npt.NDArray[np.uint32]:
    """Return whole numbers as uint32; negative ones wrap around."""
    return whole.astype(np.int32).view(np.uint32)


def _hash(x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32], z: npt.NDArray[np.uint32]) -> F32:
    """Return a random-looking number in [0, 1) for each lattice point; integer arithmetic modulo 2^32.

    Three large odd factors spread the coordinates, then xor-shift and multiply mix the bits.
    """
    h = (x * np.uint32(0x8DA6B343)) ^ (y * np.uint32(0xD8163841)) ^ (z * np.uint32(0xCB1AB31F))
    h ^= h >> np.uint32(13)
    h *= np.uint32(0x5BD1E995)
    h ^= h >> np.uint32(15)
    return (h & np.uint32(0xFFFF)).astype(np.float32) * np.float32(2**-16)


def _odd(whole: F32) -> npt.NDArray[np.bool_]:
    """Return whether whole numbers are odd."""
    half = whole * np.float32(0.5)
    return half != np.floor(half)


def _as_float(condition: npt.NDArray[np.bool_]) -> F32:
    """Return 1 where the condition holds, else 0."""
    return condition.astype(np.float32)

"""Thinning of many binary maps at once, as MATLAB's `bwmorph(map, 'thin', Inf)` does it.

The rule is the parallel one with two subiterations of Guo and Hall (Comm. ACM 32, 1989) in the form that Lam, Lee and
Suen describe (IEEE PAMI 14, 1992): conditions G1, G2 and G3, or G3' in the second subiteration, on the eight neighbours
of a pixel; outside the map there is nothing. scikit-image's `skimage.morphology.thin` follows it too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.intp]


def thin_bits(words: Words) -> Words:
    """Return `words` (H, W) with each of the 64 maps thinned until nothing changes; map k is bit k of every pixel.

    Maps that differ little change in the same places, so one Boolean operation serves them all. What a subiteration does
    to a pixel depends on its neighbourhood alone: after the first pass only those pixels are looked at whose
    neighbourhood has changed since the same subiteration saw them last, which gives the same maps.
    """
    height, width = words.shape
    padded = np.zeros((height + 2, width + 2), dtype=np.uint64)
    padded[1:-1, 1:-1] = words
    flat = padded.reshape(-1)
    marked = np.zeros(flat.size, dtype=bool)
    ring = _ring(width + 2)
    second = False
    # What the two latest subiterations changed. Whatever is older, the coming one has seen.
    earlier = latest = np.flatnonzero(flat)
    while earlier.size or latest.size:
        for step in (0, *ring):
            marked[earlier + step] = True
            marked[latest + step] = True
        todo = np.flatnonzero(marked)
        marked[todo] = False
        todo = todo[flat[todo] != 0]
        gone = _deletable([flat[todo + step] for step in ring], second) & flat[todo]
        changed = gone != 0
        earlier, latest = latest, todo[changed]
        flat[latest] ^= gone[changed]
        second = not second
    return padded[1:-1, 1:-1].copy()


def _ring(stride: int) -> tuple[int, ...]:
    """Return the steps to the eight neighbours, x1 to x8 of the papers: from the east on against the clock."""
    return 1, 1 - stride, -stride, -1 - stride, -1, stride - 1, stride, stride + 1


def _deletable(neighbours: list[Words], second: bool) -> Words:
    """Return the bits whose eight neighbours (each (n,)) let the pixel go in the first or in the second subiteration."""
    x1, x2, x3, x4, x5, x6, x7, x8 = neighbours
    a, b, c, d = x2 | x3, x4 | x5, x6 | x7, x8 | x1
    # G1: exactly one of four: an even side is empty and the corner or side after it is not. The pixel joins nothing.
    b1, b2, b3, b4 = a & ~x1, b & ~x3, c & ~x5, d & ~x7
    p, q = b1 | b2, b3 | b4
    joins = ~(p | q) | (p & q) | (b1 & b2) | (b3 & b4)
    # G2: the smaller of the two counts of occupied pairs is 2 or 3. The pixel is neither inside nor an end.
    e, f, g, h = x1 | x2, x3 | x4, x5 | x6, x7 | x8
    inside = a & b & c & d & e & f & g & h
    no_end = ((a & b) | (c & d) | ((a | b) & (c | d))) & ((e & f) | (g & h) | ((e | f) & (g | h)))
    # G3 in the first, G3' in the second subiteration: which sides are worn off.
    spared = (c | ~x4) & x5 if second else (a | ~x8) & x1
    return no_end & ~(joins | inside | spared)

"""The size to work at, from the sizes of the images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bmtas.data.stored import image_size

_MULTIPLE = 16
"""Of the sides, where they are chosen freely: what the encoders' four halvings divide."""

_ALIKE = 0.05  # how far two ratios of height and width may be apart and be called the same


def find_size(images: Sequence[Path], tick: Callable[[], None]) -> tuple[tuple[int, int], str]:
    """Return (height, width) to work at, and why. Reads every image's header. Raises UsageError where one is no image.

    Images of one size keep it. Else the most frequent aspect is kept, at about as many pixels as the smallest image has, so
    that none is enlarged by much.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for path in images:
        sizes[image_size(path)] += 1
        tick()
    (size, count), total = sizes.most_common(1)[0], len(images)
    if count == total:
        return size, f"all {total} images are {size[0]} high and {size[1]} wide"
    aspect = _aspect(sizes)
    pixels = min(height * width for height, width in sizes)
    width = _round(math.sqrt(pixels / aspect))
    height = _round(width * aspect)
    stretched = sum(n for (h, w), n in sizes.items() if abs(math.log(h / w / aspect)) > _ALIKE)
    low, high = min(sizes, key=math.prod), max(sizes, key=math.prod)
    why = (
        f"{len(sizes)} sizes from {low[0]}x{low[1]} to {high[0]}x{high[1]} (height x width); about as many pixels as the smallest, "
        f"in the most frequent aspect, multiples of {_MULTIPLE}"
    )
    return (height, width), why + (
        f"; {stretched} of {total} images have another aspect and will be stretched" if stretched else ""
    )


def _aspect(sizes: Counter[tuple[int, int]]) -> float:
    """Return the ratio of height to width that most images have."""
    ratios: Counter[float] = Counter()
    for (height, width), count in sizes.items():
        ratios[round(height / width, 2)] += count
    return ratios.most_common(1)[0][0]


def _round(side: float) -> int:
    return max(2, round(side / _MULTIPLE)) * _MULTIPLE

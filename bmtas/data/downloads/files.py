"""Listings of folders, and 16-bit images: what several data sets ask of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.stored import SIXTEEN_BIT, described, read_raw
from bmtas.errors import UsageError


def folders(root: Path) -> list[Path]:
    """Return the folders in `root` that are not hidden, sorted by name; none where `root` cannot be read."""
    try:
        return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []


def listed(folder: Path) -> list[str]:
    """Return the names of what is in `folder`: quicker than by paths where there are tens of thousands."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def stems(folder: Path, suffix: str) -> Iterator[str]:
    """Yield the names of the files in `folder` that end in `suffix`, without it; none where there is no such folder."""
    if folder.is_dir():
        for name in listed(folder):
            if name.endswith(suffix) and not name.startswith("."):
                yield name[: -len(suffix)]


def numbered(name: str) -> tuple[list[int], str]:
    """Return a key by which names sort as their numbers do: 2 before 10."""
    return [int(number) for number in re.findall(r"\d+", name)], name


def read_sixteen_bit(path: Path) -> npt.NDArray[np.int64]:
    """Return a 16-bit image of one channel, (H, W). Raises UsageError if the file holds something else."""
    raw, mode = read_raw(path)
    if mode not in SIXTEEN_BIT:
        raise UsageError(
            f"{path} holds {described(raw, mode)}; an image of one channel with 16 bits belongs here: some tool has reduced "
            "it, download it again"
        )
    return raw.astype(np.int64)

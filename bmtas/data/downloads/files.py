"""Listings of folders, the rows of an index in JSON, and 16-bit images: what several data sets ask of their files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import described
from bmtas.data.downloads.places import read_index
from bmtas.data.labels import read_raw
from bmtas.errors import UsageError

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")  # "I" is how some versions of Pillow open 16-bit PNG


def folders(root: Path) -> list[Path]:
    """Return the folders in `root` that are not hidden, sorted by name; none where `root` cannot be read."""
    try:
        return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []


def stems(folder: Path, suffix: str) -> Iterator[str]:
    """Yield the names of the files in `folder` that end in `suffix`, without it; none where there is no such folder."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.endswith(suffix) and not path.name.startswith("."):
                yield path.name[: -len(suffix)]


def numbered(name: str) -> tuple[list[int], str]:
    """Return a key by which names sort as their numbers do: 2 before 10."""
    return [int(number) for number in re.findall(r"\d+", name)], name


def read_sixteen_bit(path: Path) -> npt.NDArray[np.int64]:
    """Return a 16-bit image of one channel, (H, W). Raises UsageError if the file holds something else."""
    raw, mode = read_raw(path)
    if mode not in _SIXTEEN_BIT:
        raise UsageError(
            f"{path} holds {described(raw, mode)}; an image of one channel with 16 bits belongs here: some tool has reduced "
            "it, download it again"
        )
    return raw.astype(np.int64)


def read_rows(path: Path, columns: Mapping[str, str]) -> dict[str, list[dict[str, Path]]]:
    """Return the rows of each split in an index, with the file of each column.

    The index is a JSON object with a list of rows per split. A row is a list of paths in the order of `columns`, or an
    object with a key for each of them; `columns` maps names to the regular expression that finds the key. Paths are below
    the index's own folder, with or without a slash before them. Raises UsageError where the file is built differently.
    """
    content = read_index(path)
    if not isinstance(content, dict) or not all(isinstance(rows, list) for rows in content.values()):
        raise UsageError(
            f"{path} is no object with a list of rows per split, such as train and test; download it again"
        )
    return {
        split: [_row(path, f"row {number} of {split!r}", row, columns) for number, row in enumerate(rows)]
        for split, rows in content.items()
    }


def _row(path: Path, where: str, row: Any, columns: Mapping[str, str]) -> dict[str, Path]:
    if isinstance(row, dict):
        found = [[key for key in row if re.search(pattern, key)] for pattern in columns.values()]
        row = [row[keys[0]] if len(keys) == 1 else None for keys in found]
    if not isinstance(row, list) or len(row) != len(columns) or not all(isinstance(value, str) for value in row):
        raise UsageError(f"{path}: {where} does not name one file each for {', '.join(columns)}; download it again")
    return {name: path.parent / value.lstrip("/") for name, value in zip(columns, row, strict=True)}

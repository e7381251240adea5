"""Indices in JSON, as AdaShare and AutoMTL circulate them: the rows of each split, and the files that each row names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bmtas.data.downloads.places import check_unique, read_index
from bmtas.errors import UsageError

_HALVES = ("train1", "train2")
"""The parts of `train` on which AutoMTL searches."""


@dataclass(frozen=True)
class Index:
    """What an index holds.

    Attributes:
        splits: the ids of `train`, of `val` and maybe of `test`; an id is the path of an image without its ending.
        rows: the path of each column by id, relative and below the folder of the index.
        val_is_test: whether `val` is what the index calls `test`, because it has no other.
    """

    splits: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Mapping[str, str]]
    val_is_test: bool


def read_rows(path: Path, columns: Mapping[str, str], endings: Mapping[str, tuple[str, ...]] | None = None) -> Index:
    """Return what the index `path` holds.

    It is a JSON object with a list of rows for `train` (or for `train1` and `train2`) and for `val` or `test`. A row is a
    list of paths in the order of `columns`, or an object with one key for each of them: `columns` maps names to the regular
    expression that finds the key, the image first. `endings` says how the files of a column may end. Paths are below the
    index's own folder, with or without a slash before them. Raises UsageError where the file is built differently, a path
    leads out of the folder, or an image stands in a split twice.
    """
    content = read_index(path)
    given: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    halved = not given.get("train") and all(given.get(name) for name in _HALVES)
    keys = {"train": _HALVES if halved else ("train",)}
    held = [name for name in ("val", "test") if given.get(name)]
    keys |= {name: (name,) for name in held} if "val" in held else {"val": ("test",)}
    splits: dict[str, tuple[str, ...]] = {}
    by_id: dict[str, Mapping[str, str]] = {}
    for split, names in keys.items():
        rows = [
            _row(path, f"row {number} of {name!r}", row, columns, endings or {})
            for name in names
            for number, row in enumerate(_listed(path, given, split, name), start=1)
        ]
        splits[split] = tuple(stem(next(iter(row.values()))) for row in rows)
        check_unique(path, splits[split])
        by_id |= dict(zip(splits[split], rows, strict=True))
    return Index(splits, by_id, val_is_test="val" not in held)


def relative(where: Path, path: str) -> str:
    """Return `path` without a slash before it. Raises UsageError if it names no file or leads out of the data set's folder."""
    parts = PurePosixPath(path.lstrip("/"))
    if ".." in parts.parts:
        raise UsageError(f"{where}: the path {path!r} leads out of the data set's folder; write it relative to that")
    if not parts.name:
        raise UsageError(f"{where}: the path {path!r} names no file; correct it or download the list again")
    return str(parts)


def stem(path: str) -> str:
    """Return an image's id: its path without its ending."""
    return str(PurePosixPath(path).with_suffix(""))


def _listed(path: Path, given: Mapping[str, Any], split: str, name: str) -> list[Any]:
    rows = given.get(name)
    if not isinstance(rows, list) or not rows:
        keys = ", ".join(map(repr, given)) or "none"
        raise UsageError(
            f"{path} has no list of rows for the split {split!r} (its keys: {keys}); it needs 'train' (or 'train1' and "
            "'train2') and 'test' (or 'val'), each a list of rows: download it again"
        )
    return rows


def _row(
    path: Path, where: str, row: Any, columns: Mapping[str, str], endings: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return the relative path of each column of a row."""
    listed = row
    if isinstance(row, Mapping):
        found = [[key for key in row if re.search(pattern, key)] for pattern in columns.values()]
        listed = [row[keys[0]] if len(keys) == 1 else None for keys in found]
    if not isinstance(listed, list) or len(listed) != len(columns) or not all(isinstance(v, str) for v in listed):
        raise UsageError(
            f"{path}: {where}, {row!r}, does not name one file each for {', '.join(columns)}, as an object or as a list in "
            "this order; download it again"
        )
    paths = {name: relative(path, value) for name, value in zip(columns, listed, strict=True)}
    for name, allowed in endings.items():
        if PurePosixPath(paths[name]).suffix.lower() not in allowed:
            raise UsageError(
                f"{path}: {where} gives {paths[name]!r} as {name!r}, in this variant a path that ends in "
                f"{' or '.join(allowed)}: correct the index"
            )
    return paths

"""Where below or above the folder that a user names a data set may stand, and what its lists and indices say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmtas.data.stored import image_size
from bmtas.errors import UsageError

_NO_DATA = ("__MACOSX",)  # what some unpackers leave beside an archive's content


def places(root: Path, inside: Collection[str]) -> Iterator[Path]:
    """Yield where the data set may stand: `root`; its only sub-folder; the folder above, if `root` is called as in `inside`.

    An archive unpacks into a folder of its own, and people name the folder above it or one of those in it. With several
    sub-folders there may be several data sets: none is guessed.
    """
    yield root
    below = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in _NO_DATA]
    if len(below) == 1:
        yield below[0]
    if root.name in inside:
        yield root.parent


def check_unpacked(root: Path, archives: Sequence[str]) -> None:
    """Raise UsageError if an archive of the data set lies in `root` as it was downloaded."""
    for name in archives:
        if (root / name).is_file():
            raise UsageError(f"{root / name} is an archive; data are read from folders: unpack it (tar xf {name})")


def check_folders(root: Path, folders: Iterable[str], what: str) -> None:
    """Raise UsageError naming those of `folders` that `root`, which holds `what`, lacks."""
    absent = [name for name in folders if not (root / name).is_dir()]
    if absent:
        raise UsageError(
            f"{root} looks like {what}, but it lacks {', '.join(f'{name}/' for name in absent)}; the archive is unpacked "
            "by half, or is a version without these: unpack it again, or download the complete one"
        )


def read_list(path: Path) -> tuple[str, ...]:
    """Return the lines of a list of ids, without empty ones. Raises UsageError for a line twice or with blanks inside."""
    lines = read_lines(path)
    for line in lines:
        if len(line.split()) > 1:
            raise UsageError(f"{path}: the line {line!r} is not one id; a list of a split has one id per line")
    check_unique(path, lines)
    return tuple(lines)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones. Raises UsageError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; it must be a text file: unpack or download it again") from None
    return [line.strip() for line in lines if line.strip()]


def read_index(path: Path) -> Any:
    """Return what a JSON file holds. Raises UsageError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise UsageError(f"cannot read {path}: {error}; it must be JSON: unpack or download it again") from None


def check_unique(path: Path, ids: Sequence[str]) -> None:
    """Raise UsageError if one of `ids`, which stand in the list `path`, stands there twice."""
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise UsageError(f"{path}: {twice[0]!r} stands {ids.count(twice[0])} times; keep one line per image")


def suffixes(folder: Path) -> set[str]:
    """Return the endings of the files in `folder`: `.png`. Hidden files do not count."""
    return {path.suffix for path in folder.iterdir() if not path.name.startswith(".")}


def first_size(images: Iterable[Path], root: Path) -> tuple[int, int]:
    """Return (height, width) of the first of `images` that is there, from its header.

    Raises UsageError if none is, naming the first, or if the file is no image.
    """
    wanted = None
    for path in images:
        if path.is_file():
            return image_size(path)
        wanted = wanted or path
    raise UsageError(f"{root}: none of the images in the lists is there, {wanted} for one; complete the download")

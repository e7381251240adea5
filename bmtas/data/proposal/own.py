"""What earlier runs of `bmtas init` have left: a folder of lists and links, and a picture. They are no data, and may be replaced."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from PIL import Image

from bmtas.errors import UsageError

COMPANION = "-files"
"""What the folder for lists and links is called, behind the name of the manifest beside it."""

SOFTWARE = ("Software", "bmtas init")
"""Key and text that a picture bears; `Software` is one of the keywords that the PNG specification lists."""

_LISTS = frozenset({"train.txt", "val.txt", "test.txt"})
_MANIFESTS = (".yaml", ".yml")


def is_left(path: Path, beside: Container[str]) -> bool:
    """Return whether a folder or a picture was left by an earlier proposal: a manifest of its name is among those `beside` it.

    A picture is opened for its mark, since people may keep a YAML file for each image.
    """
    if path.suffix.lower() == ".png":
        return any(path.stem + end in beside for end in _MANIFESTS) and is_own_picture(path)
    stem = path.name.removesuffix(COMPANION)
    return stem != path.name and any(stem + end in beside for end in _MANIFESTS)


def is_own_picture(path: Path) -> bool:
    """Return whether `bmtas init` drew a file."""
    try:
        with Image.open(path) as picture:
            key, text = SOFTWARE
            return picture.info.get(key) == text
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # whatever Pillow has against other files
        return False


def check_own_folder(companion: Path) -> None:
    """Raise UsageError if a folder that is to be replaced holds anything but the lists and links that `bmtas init` writes.

    At its top stand lists of the splits, and folders in which nothing but links to folders is.
    """
    strange = _strange(companion)
    if strange is not None:
        raise UsageError(
            f"{strange} was not written by bmtas init, and {companion} would be replaced; name another file by --output, or move it away"
        )


def _strange(companion: Path) -> Path | None:
    if companion.is_symlink() or not companion.is_dir():
        return companion
    for path in sorted(companion.iterdir()):
        if path.is_symlink():
            return path
        strange = _no_link(path) if path.is_dir() else None if path.name in _LISTS else path
        if strange is not None:
            return strange
    return None


def _no_link(folder: Path) -> Path | None:
    """Return what else than links to folders is in `folder`, itself if it is empty."""
    inside = sorted(folder.iterdir())
    if not inside:
        return folder
    for path in inside:
        if path.is_symlink() and not path.is_file():  # the folder that a link leads to may be gone
            continue
        strange = _no_link(path) if path.is_dir() else path
        if strange is not None:
            return strange
    return None

"""Files of the kernel, read so that whatever is wrong with one is told and never raised."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

_MOST = 1 << 20  # bytes; what the kernel tells in one file is far smaller

_REASONS = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "may not be read by this user",
    errno.EPERM: "may not be read by this user",
    errno.EAGAIN: "tells nothing now: what it measures is switched off",
    errno.ENODATA: "tells nothing now: what it measures is switched off",
}


def why(error: OSError) -> str:
    """Return in words why a file could not be read."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def read_text(path: Path, unavailable: dict[str, str] | None = None, name: str = "") -> str | None:
    """Return the content of a file without its ends, or None; `unavailable[name]` then says why."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError as error:
        if unavailable is not None:
            unavailable[name] = f"{path} {why(error)}"
        return None


def read_int(path: Path, unavailable: dict[str, str] | None = None, name: str = "") -> int | None:
    """Return the whole number in a file, or None; `unavailable[name]` then says why."""
    text = read_text(path, unavailable, name)
    number = None if text is None else whole(text)
    if text is not None and number is None and unavailable is not None:
        unavailable[name] = f"{path} holds {text[:40]!r}, which is no whole number"
    return number


def whole(text: str) -> int | None:
    """Return a whole number that a text is, or None; the kernel has 64 bits for each."""
    try:
        return int(text) if len(text) <= 20 else None
    except ValueError:
        return None


def mhz(khz: int | None) -> float | None:
    """Return MHz of kHz."""
    return None if khz is None else khz / 1000


def folders(root: Path, place: str, pattern: str) -> Iterator[Path]:
    """Yield what is called `pattern` in `place` below `root`, in order of numbers; nothing where that cannot be read."""
    try:
        found = list((root / place).glob(pattern))
    except OSError:
        return
    yield from sorted(found, key=lambda path: (len(path.name), path.name))


def by_name(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each hwmon chip with the name that its driver gives it."""
    for chip in folders(root, "sys/class/hwmon", "hwmon*"):
        name = read_text(chip / "name")
        if name:
            yield name, chip


class Number:
    """A file with a number, kept open: the kernel tells anew whenever it is read from its beginning."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError."""
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float | None:
        """Return what the file tells now, or None."""
        try:
            return float(os.pread(self._file, 64, 0))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the file; it is then not read again."""
        os.close(self._file)

"""The files of a folder, by folder and by the beginning or the end of their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bmtas.data.manifest import IMAGE_SUFFIXES
from bmtas.data.proposal.own import is_left
from bmtas.errors import UsageError

READ = (*IMAGE_SUFFIXES, ".npy")
"""Endings of the files that can be images or labels."""

Parts = tuple[str, ...]
"""A folder as its path below the one that was given."""

_TEXTS = (".txt", ".lst", ".csv", ".json")


@dataclass(frozen=True)
class Family:
    """Files of one folder whose names begin and end alike.

    Attributes:
        parts: the folder.
        tail: the end of the names, such as `_rgb.png`; None where only the ending of the file is taken off, whatever it is.
        files: stem -> name of the file.
        head: the beginning of the names, such as `rgb_`; empty where it is part of the stem.
    """

    parts: Parts
    tail: str | None
    files: Mapping[str, str]
    head: str = ""

    @property
    def suffixes(self) -> list[str]:
        """The endings of the files, in small letters, the most frequent first."""
        return [end for end, _ in Counter(Path(name).suffix.lower() for name in self.files.values()).most_common()]


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        root: the folder.
        plain: one family per folder, where nothing says that its files are of several sorts; else one per end of the names.
        stripped: the same folders with the common end of the names taken off.
        headed: the same folders with the words before the numbers taken off, where files have such names.
        texts: lists, tables and JSON files.
        unread: how many other files there are, by ending.
    """

    root: Path
    plain: tuple[Family, ...]
    stripped: tuple[Family, ...]
    headed: tuple[Family, ...]
    texts: tuple[Path, ...]
    unread: Mapping[str, int]

    def count(self) -> int:
        """Return how many files can be images or labels."""
        return sum(len(family.files) for family in self.plain)


def list_files(root: Path) -> Listing:
    """Return what `root` holds but hidden files, hidden folders and what an earlier proposal left. Raises UsageError if it is no folder."""
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; give the folder in which images and labels lie")
    folders: dict[Parts, list[str]] = {}
    texts: list[Path] = []
    unread: Counter[str] = Counter()
    for parent, names in _walk(root):
        parts = parent.relative_to(root).parts
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix in READ:
                folders.setdefault(parts, []).append(name)
            elif suffix in _TEXTS:
                texts.append(parent / name)
            else:
                unread[suffix or name] += 1
    tails = Tails(name for names in folders.values() for name in names)
    plain: list[Family] = []
    stripped: list[Family] = []
    headed: list[Family] = []
    for parts, names in sorted(folders.items()):
        by_tail = tails.families(parts, names)
        if _share_stems(by_tail):
            plain += by_tail
        else:
            plain += _by_ending(parts, names)
        stripped += by_tail
        headed += _by_head(parts, names)
    return Listing(root, tuple(plain), tuple(stripped), tuple(headed), tuple(texts), dict(unread.most_common()))


class Tails:
    """The ends that many file names share: words after `_`, `-` or `.`, with the ending of the file."""

    def __init__(self, names: Iterable[str]) -> None:
        self._counts = Counter(tail for name in names for tail in self._candidates(name))

    def split(self, name: str) -> tuple[str, str]:
        """Return stem and tail of a name; the tail is the ending alone where no other name has the same last word."""
        candidates = self._candidates(name)
        first = self._counts[candidates[0]] if candidates else 0
        tail = Path(name).suffix
        if first >= 2:
            tail = [candidate for candidate in candidates if self._counts[candidate] == first][-1]
        return name[: -len(tail)], tail

    def families(self, parts: Parts, names: Iterable[str]) -> list[Family]:
        """Return the files of a folder by tail."""
        found: dict[str, dict[str, str]] = {}
        for name in names:
            stem, tail = self.split(name)
            found.setdefault(tail, {})[stem] = name
        return [Family(parts, tail, files) for tail, files in found.items()]

    @staticmethod
    def _candidates(name: str) -> list[str]:
        """Return the ends of a name that hold a word, the shortest first; something is left before each."""
        suffix = Path(name).suffix
        base = name[: -len(suffix)] if suffix else name
        found: list[str] = []
        for place in reversed([match.start() for match in re.finditer(r"[_\-.]", base)]):
            token = re.split(r"[_\-.]", base[place + 1 :])[0]
            if place == 0 or not re.search(r"[A-Za-z]", token):
                break
            found.append(base[place:] + suffix)
        return found


def _share_stems(families: list[Family]) -> bool:
    """Return whether files of one folder belong together: those of two families have the same stems."""
    for number, one in enumerate(families):
        for other in families[number + 1 :]:
            if 2 * len(one.files.keys() & other.files.keys()) >= min(len(one.files), len(other.files)):
                return True
    return False


def _by_ending(parts: Parts, names: list[str]) -> list[Family]:
    """Return the files of a folder as one family, or by ending where two endings have the same stems."""
    stems: dict[str, str] = {Path(name).stem: name for name in names}
    if len(stems) == len(names):
        return [Family(parts, None, stems)]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        found.setdefault(Path(name).suffix, {})[Path(name).stem] = name
    return [Family(parts, suffix, files) for suffix, files in found.items()]


def _by_head(parts: Parts, names: list[str]) -> list[Family]:
    """Return the files of a folder by the words before the number in their names, `rgb_` of `rgb_0001.png`; those without a number as they are."""
    heads: dict[str, list[str]] = {}
    for name in names:
        match = re.match(r"[A-Za-z][A-Za-z_. -]*(?=\d)", name)
        heads.setdefault(match.group() if match else "", []).append(name)
    return [
        replace(family, head=head, files={stem.removeprefix(head): name for stem, name in family.files.items()})
        for head, inside in heads.items()
        for family in _by_ending(parts, inside)
    ]


def _walk(root: Path) -> Iterable[tuple[Path, list[str]]]:
    """Yield each folder below `root` with its files; links are followed, but no folder is entered twice."""
    seen: set[Path] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        folder = Path(parent)
        if folder.resolve() in seen:
            folders[:] = []
            continue
        seen.add(folder.resolve())
        beside = set(names)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not is_left(folder / name, beside))
        yield folder, [name for name in names if not name.startswith(".") and not is_left(folder / name, beside)]

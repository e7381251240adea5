"""How a folder's images are divided: by folders, by lists of names, or not at all yet."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmtas.data.folder_splits import to_id
from bmtas.data.proposal.found import Splits
from bmtas.data.proposal.words import split_of
from bmtas.errors import UsageError

FRACTION = 0.2
"""Share of the images for validation where nothing says more."""

_ORDER = ("train", "val", "test")
_KNOWN = 0.9  # share of a list's lines that name images; a list with fewer is of something else
_LISTS = (".txt", ".lst")


@dataclass(frozen=True)
class Wanted:
    """The images to be divided.

    Attributes:
        images: all of them by id.
        usable: the ids of those with a label.
        role, prefix, suffix: their folders below the root, the beginning and the end of their names, which lines of lists may name, too.
        alone: whether no other file in their folder ends as they do.
    """

    images: Mapping[str, Path]
    usable: Sequence[str]
    role: Sequence[str]
    prefix: str
    suffix: str
    alone: bool


def find_splits(root: Path, texts: Sequence[Path], wanted: Wanted) -> Splits:
    """Return how the images with labels are divided. Raises UsageError if there are fewer than two."""
    usable = wanted.usable
    if len(usable) < 2:
        raise UsageError(f"{root}: {len(usable)} image has a label; training and validation need one each, so add more")
    found = _by_folder(usable) or _by_lists(root, texts, wanted)
    if found is not None:
        return found
    fraction = FRACTION if len(usable) > 2 else 0.5
    doubts: tuple[str, ...] = ()
    if _numbered(usable):
        doubts = (
            "the names count up: where these are frames of a film, neighbours are alike, so write lists that keep them together",
        )
    if len(usable) < len(wanted.images) or not wanted.alone:
        return Splits(_divided(usable, fraction), {}, None, _no_lists(fraction), doubts)
    return Splits({}, {}, fraction, _no_lists(fraction), doubts)


def _no_lists(fraction: float) -> str:
    return f"no folders or lists called train and val were found: {fraction:.0%} picked by a hash of their names"


def _divided(usable: Sequence[str], fraction: float) -> dict[str, tuple[str, ...]]:
    """Divide as `bmtas.data.folder_splits` divides, but for the images without labels."""
    ranked = sorted(usable, key=lambda name: hashlib.sha256(name.encode()).digest())
    stop = round(fraction * len(ranked))
    return {"train": tuple(sorted(ranked[stop:])), "val": tuple(sorted(ranked[:stop]))}


def _by_folder(usable: Sequence[str]) -> Splits | None:
    found: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    for name in usable:
        for part in name.split("/")[:-1]:
            split = split_of(part)
            if split is not None:
                found.setdefault(split, []).append(name)
                words[split] = part
                break
    if len(found) < 2:
        return None
    doubts: list[str] = []
    outside = len(usable) - sum(map(len, found.values()))
    if outside:
        doubts.append(f"{outside} images lie in no folder of a split and are left out")
    why = "by the folders " + ", ".join(words[split] for split in _ORDER if split in found)
    return _with_val({split: tuple(names) for split, names in found.items()}, {}, why, doubts)


def _by_lists(root: Path, texts: Sequence[Path], wanted: Wanted) -> Splits | None:
    """Return the lists of the folder in which most images are named."""
    folders: dict[Path, dict[str, tuple[Path, list[str], list[str]]]] = {}
    for path in sorted(texts, key=lambda p: (len(p.stem), str(p))):  # train.txt before aeroplane_train.txt
        split = split_of(path.stem) if path.suffix.lower() in _LISTS else None
        if split is None or split in folders.get(path.parent, {}):
            continue
        lines = _lines(path)
        names = [name for line in lines if (name := _id_of(line, wanted)) is not None]
        if names and len(names) >= _KNOWN * len(lines):
            folders.setdefault(path.parent, {})[split] = (path, lines, names)
    if not folders:
        return None
    best = max(folders, key=lambda folder: sum(len(names) for _, _, names in folders[folder].values()))
    return _from_lists(root, folders[best], wanted)


def _from_lists(root: Path, found: Mapping[str, tuple[Path, list[str], list[str]]], wanted: Wanted) -> Splits:
    """Return what lists say, each image once, and only those with labels."""
    usable = set(wanted.usable)
    lists: dict[str, tuple[str, ...]] = {}
    files: dict[str, Path] = {}
    doubts: list[str] = []
    taken: set[str] = set()
    for split in ("test", "val", "train"):  # what is in two lists is kept out of training
        if split not in found:
            continue
        path, lines, names = found[split]
        place = path.relative_to(root).as_posix()
        kept = tuple(dict.fromkeys(name for name in names if name in usable and name not in taken))
        for count, what in (
            (len(lines) - len(names), "lines name no image"),
            (len({name for name in names if name not in usable}), "images have no label"),
            (len(set(names) & taken), "images stand in another list, too"),
        ):
            if count:
                doubts.append(f"{place}: {count} {what} and are left out")
        if not kept:
            continue
        lists[split] = kept
        taken |= set(kept)
        as_it_is = len(kept) == len(lines) and all(
            to_id(line, {name}, wanted.prefix, [wanted.suffix]) == name for line, name in zip(lines, kept, strict=True)
        )
        if as_it_is:
            files[split] = path
    unlisted = len(usable - taken)
    if set(lists) == {"train"} and unlisted:
        lists["val"] = tuple(sorted(usable - taken))
        doubts.append(
            f"there is no list for validation: the {unlisted} images that {found['train'][0].name} does not name were taken"
        )
    elif unlisted:
        doubts.append(f"{unlisted} images with labels are in no list and are left out")
    return _with_val(
        lists,
        files,
        "lists of names: " + ", ".join(found[s][0].relative_to(root).as_posix() for s in _ORDER if s in found),
        doubts,
    )


def _with_val(
    lists: Mapping[str, tuple[str, ...]], files: Mapping[str, Path], why: str, doubts: Sequence[str]
) -> Splits:
    """Make sure of `train` and `val`; a lone test split serves for validation, and validation alone is divided."""
    lists, files, doubts = dict(lists), dict(files), list(doubts)
    if "train" not in lists:
        lists = _divided(sorted(name for names in lists.values() for name in names), FRACTION)
        return Splits(lists, {}, None, why, (*doubts, "there is nothing for training by name: all was divided anew"))
    if "val" not in lists and "test" in lists:
        lists["val"] = lists.pop("test")
        if "test" in files:
            files["val"] = files.pop("test")
        doubts.append(
            "there is no split for validation, so that the test split serves as val: no number on it is a test any more"
        )
    elif "val" not in lists:
        return Splits(
            _divided(lists["train"], FRACTION), {}, None, why, (*doubts, "val was taken from the training images")
        )
    return Splits({split: lists[split] for split in _ORDER if split in lists}, files, None, why, tuple(doubts))


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if line and not line.startswith("#")]


def _id_of(line: str, wanted: Wanted) -> str | None:
    """Return the image that a line names: its id, its path, or the first of several columns."""
    for text in dict.fromkeys((line, re.split(r"[\s,;]+", line)[0])):
        bare = text.lstrip("./")
        folder = "/".join(wanted.role) + "/"
        for name in (bare, bare.removeprefix(folder), bare.split("/" + folder)[-1]):
            found = to_id(name, wanted.images, wanted.prefix, [wanted.suffix])
            if found in wanted.images:
                return found
    return None


def _numbered(names: Sequence[str]) -> bool:
    """Return whether most names end in numbers that follow each other."""
    numbers = sorted(int(match[1]) for name in names if (match := re.search(r"(\d{1,12})$", name)))
    steps = sum(after - before == 1 for before, after in itertools.pairwise(numbers))
    return len(numbers) > 2 and 2 * steps > len(names)

"""Which files of a folder are the images, and which others belong to them: by folder, or by the end or the beginning of their names.

A folder's path is `before/role/after`: images and their labels lie in folders that differ in the role alone (`train/rgb/oslo`
and `train/depth/oslo`), or in one folder with the role at the end of the names (`0001_rgb.png`, `0001_depth.png`). Only where
neither pairs anything the words before numbers are taken for the role (`rgb_0001.png`, `sync_depth_0001.png`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bmtas.data.proposal.listing import Family, Listing, Parts
from bmtas.data.proposal.looks import is_photograph
from bmtas.data.proposal.words import is_image, meanings, split_of

Mark = tuple[str, str | None]
"""What the names of a family begin and end with."""
Context = tuple[Parts, Parts]
"""What a folder's path has before and after its role."""

_LEAST = 0.1  # share of a family's files that pair with images; below, it is chance


@dataclass(frozen=True)
class Stream:
    """Files of one role: the images, or the labels of one task.

    Attributes:
        role: the folders that these files alone have in their paths; empty where the names tell them apart.
        tail: the end of their names, None for the ending of the file alone, whatever it is.
        files: id of the image -> file.
        befores: what their paths have before the role, below the layout's root.
        strays: files beside them that pair with no image.
        head: the beginning of their names; empty where nothing is taken off there.
    """

    role: Parts
    tail: str | None
    files: dict[str, Path]
    befores: frozenset[Parts]
    strays: tuple[Path, ...] = ()
    head: str = ""

    @property
    def title(self) -> str:
        """The stream's name for people: its folder, and what the names begin or end with where that tells it apart."""
        folder, names = "/".join(self.role), f"{self.head}*{self.tail or ''}"
        return f"{folder}/{names}" if folder and names != "*" else folder or names

    @property
    def names(self) -> list[str]:
        """What may tell its meaning: its folders, then the beginning and the end of its names."""
        return [*self.role, *_words((self.head, self.tail))]


@dataclass(frozen=True)
class Layout:
    """Images, what pairs with them, and what does not.

    Attributes:
        root: the folder below which all paths begin alike.
        images, labels: the streams.
        unused: families that pair with no image.
    """

    root: Path
    images: Stream
    labels: tuple[Stream, ...] = ()
    unused: tuple[Family, ...] = ()

    @property
    def parted(self) -> bool:
        """Whether folders stand before the role, as in `train/rgb`, which a manifest cannot say without links."""
        return any(self.images.befores)


@dataclass
class _Guess:
    """Folders taken for those of the images, and what would pair with them."""

    role: Parts
    mark: Mark
    folders: dict[Context, Family]
    pairs: dict[tuple[Parts, Mark], list[tuple[Context, Family]]] = field(default_factory=dict)
    count: int = 0


def find_layout(listing: Listing) -> Layout | None:
    """Return the images and what pairs with them; None if nothing looks like images."""
    best: tuple[tuple[object, ...], _Guess, tuple[Family, ...]] | None = None
    for families, plain in ((listing.plain, True), (listing.stripped, False), (listing.headed, False)):
        if families is listing.headed and best is not None and best[1].count:
            break
        for guess in _guesses(listing.root, families):
            _pair(listing.root, guess, families)
            first = next(iter(guess.folders.values()))
            photograph = is_photograph(_path(listing.root, first, next(iter(first.files))))
            named = _is_named(guess.role, guess.mark)
            images = sum(len(family.files) for family in guess.folders.values())
            score = (guess.count > 0, named, photograph, guess.count, images, plain, -len(guess.role))
            if (named or photograph) and (best is None or score > best[0]):
                best = (score, guess, families)
    return None if best is None else _layout(listing.root, best[1], best[2])


def _guesses(root: Path, families: Sequence[Family]) -> Iterator[_Guess]:
    """Yield which folders may be those of the images: named so, or holding photographs."""
    found: dict[tuple[Parts, Mark], dict[Context, list[Family]]] = {}
    for family in families:
        if meanings(_words(_mark(family))) or family.suffixes[0] == ".npy":
            continue
        for start, stop in _slices(root, family):
            context = (family.parts[:start], family.parts[stop:])
            folders = found.setdefault((family.parts[start:stop], _mark(family)), {})
            folders.setdefault(context, []).append(family)
    for (role, mark), folders in found.items():
        if all(len(inside) == 1 for inside in folders.values()):
            yield _Guess(role, mark, {context: inside[0] for context, inside in folders.items()})


def _slices(root: Path, family: Family) -> Iterable[tuple[int, int]]:
    """Return which part of a folder's path may be the role of images."""
    slices = [(0, 0)]
    for place, name in enumerate(family.parts):
        if is_image(name):
            slices += [(start, place + 1) for start in range(place + 1)]
    if len(slices) == 1 and is_photograph(_path(root, family, next(iter(family.files)))):
        slices += [(place, place + 1) for place, name in enumerate(family.parts) if not meanings([name])]
    return slices


def _pair(root: Path, guess: _Guess, families: Sequence[Family]) -> None:
    """Find for each other family the images that it belongs to; only what is no images itself speaks for the guess."""
    own = {id(family) for family in guess.folders.values()}
    for family in families:
        if id(family) in own:
            continue
        best: tuple[int, Context, Parts] | None = None
        for start in range(len(family.parts) + 1):
            for stop in range(start, len(family.parts) + 1):
                context = (family.parts[:start], family.parts[stop:])
                images = guess.folders.get(context)
                if images is None or _of_other_splits(images.parts, family.parts):
                    continue
                shared = len(images.files.keys() & family.files.keys())
                if shared > _LEAST * len(family.files) and (best is None or shared > best[0]):
                    best = (shared, context, family.parts[start:stop])
        if best is not None:
            guess.pairs.setdefault((best[2], _mark(family)), []).append((best[1], family))
            guess.count += 0 if _shows_images(root, best[2], family) else best[0]


def _of_other_splits(one: Parts, other: Parts) -> bool:
    """Return whether folders belong to different splits, so that equal names in them are no pairs: train/images, val/depth."""
    shared = len(_common((one, other)))
    first, second = (next(filter(None, map(split_of, parts[shared:])), None) for parts in (one, other))
    return first is not None and second is not None and first != second


def _shows_images(root: Path, role: Parts, family: Family) -> bool:
    return _is_named(role, _mark(family)) or is_photograph(_path(root, family, next(iter(family.files))))


def _mark(family: Family) -> Mark:
    return family.head, family.tail


def _words(mark: Mark) -> list[str]:
    """Return what the names say at their beginning and at their end, where they say anything."""
    head, tail = mark
    return [*([head.rstrip("_-. ")] if head else []), *([tail.rsplit(".", 1)[0]] if tail else [])]


def _is_named(role: Parts, mark: Mark) -> bool:
    return any(is_image(name) for name in ("/".join(role), *_words(mark)))


def _layout(root: Path, guess: _Guess, families: Sequence[Family]) -> Layout:
    befores = [before for before, _ in guess.folders]
    common = _common(befores)
    images = _stream(root, common, guess.role, guess.mark, list(guess.folders.items()), None)
    labels = [
        _stream(root, common, role, mark, found, images.files.keys()) for (role, mark), found in guess.pairs.items()
    ]
    used = {id(family) for found in guess.pairs.values() for _, family in found}
    used |= {id(family) for family in guess.folders.values()}
    unused = tuple(family for family in families if id(family) not in used)
    return Layout(root.joinpath(*common), images, tuple(labels), unused)


def _common(paths: Sequence[Parts]) -> Parts:
    """Return the folders with which all of `paths` begin."""
    first, last = min(paths), max(paths)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _stream(
    root: Path,
    common: Parts,
    role: Parts,
    mark: Mark,
    found: Sequence[tuple[Context, Family]],
    ids: Iterable[str] | None,
) -> Stream:
    """Return the files of a role by the id of their image; those that pair with none of `ids` are strays."""
    known = None if ids is None else set(ids)
    files: dict[str, Path] = {}
    strays: list[Path] = []
    for (before, after), family in found:
        for stem in family.files:
            name = "/".join((*before[len(common) :], *after, stem))
            path = _path(root, family, stem)
            if known is None or name in known:
                files[name] = path
            else:
                strays.append(path)
    befores = frozenset(before[len(common) :] for (before, _), _ in found)
    return Stream(role, mark[1], dict(sorted(files.items())), befores, tuple(strays), mark[0])


def _path(root: Path, family: Family, stem: str) -> Path:
    return root.joinpath(*family.parts, family.files[stem])

"""Omniglot: handwritten characters of 50 alphabets, one task of classification per alphabet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.files import folders, stems
from bmtas.data.downloads.omniglot_packed import looks_packed, packed_layout
from bmtas.data.downloads.omniglot_tasks import SIDE, task_of
from bmtas.data.downloads.places import places
from bmtas.errors import UsageError

_PARTS = {"images_background": 964, "images_evaluation": 659}
"""The two archives, with the characters in each; 30 and 20 alphabets."""

_DRAWINGS = 20  # of each character
_TRAINED = 16
_ALPHABETS = 50
_DEFAULT = 5  # tasks taken where none are named
_SEED = 666  # of the order in which experiments with several alphabets take them


def detect(root: Path) -> Layout | None:
    """Return the layout of Omniglot in `root`, in the only folder below or in the one above; None if it is not there.

    Raises UsageError where a folder of alphabets is empty or holds something else, and where both forms lie together.
    """
    for found in places(root, tuple(_PARTS)):
        parts = [found / name for name in _PARTS if (found / name).is_dir()]
        packed = looks_packed(found)
        if parts and packed:
            raise UsageError(f"{found} holds Omniglot both in folders and packed in .npz; move one of them elsewhere")
        if packed:
            return packed_layout(found)
        if parts:
            return _layout(found, parts)
    return None


def _layout(root: Path, parts: Sequence[Path]) -> Layout:
    alphabets = {alphabet.name: alphabet for part in parts for alphabet in folders(part)}
    characters = {name: [p.name for p in folders(path)] for name, path in alphabets.items()}
    for part in parts:
        if not folders(part):
            raise UsageError(f"{part} holds no folder of an alphabet; unpack {part.name}.zip again")
    for name, found in characters.items():
        if len(found) < 2:
            raise UsageError(
                f"{alphabets[name]} holds {len(found)} folders of characters; an alphabet has a folder per character: unpack "
                f"{alphabets[name].parent.name}.zip again"
            )
    order = _ordered(sorted(alphabets))
    splits: dict[str, list[str]] = {"train": [], "val": []}
    odd = 0
    for name in order:
        for split, ids in _divided(root, alphabets[name], characters[name]).items():
            splits[split] += ids
        odd += sum(len(list(stems(alphabets[name] / c, ".png"))) != _DRAWINGS for c in characters[name])
    sources = tuple(_source(root, alphabets[name], characters[name]) for name in order)
    expected = sum(_PARTS[part.name] for part in parts)
    remarks = [
        "an image has a label for the task of its own alphabet only",
        (
            f"of the {_DRAWINGS} drawings of a character {_TRAINED} are for training, chosen by numpy's RandomState seeded with "
            "the MD5 of the alphabet's name; papers do not say how they divide, so compare with care"
        ),
    ]
    if len(order) == _ALPHABETS:
        remarks.append(
            f"alphabets in the order of RandomState({_SEED}).permutation({_ALPHABETS}) over their sorted names"
        )
    else:
        remarks.append(f"{len(order)} of {_ALPHABETS} alphabets are here, in alphabetical order")
    if odd:
        remarks.append(f"{odd} characters have not {_DRAWINGS} drawings; of each, four fifths are for training")
    return Layout(
        name="omniglot",
        variant=f"a folder per alphabet in {' and '.join(part.name for part in parts)}",
        root=root,
        size=(SIDE, SIDE),
        splits=splits,
        find_image=partial(_file, root),
        read_image=_read_image,
        sources=sources,
        expected={"train": _TRAINED * expected, "val": (_DRAWINGS - _TRAINED) * expected},
        remarks=tuple(remarks),
        default_tasks=tuple(source.task.name for source in sources[:_DEFAULT]),
    )


def _ordered(names: list[str]) -> list[str]:
    """Return the alphabets in the order in which they become tasks."""
    if len(names) != _ALPHABETS:
        return names
    return [names[i] for i in np.random.RandomState(_SEED).permutation(_ALPHABETS)]


def _divided(root: Path, alphabet: Path, characters: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of an alphabet's drawings by split: four fifths of those of each character are for training.

    An id is the path below `root` without its ending.
    """
    seed = int(hashlib.md5(alphabet.name.encode(), usedforsecurity=False).hexdigest()[:8], 16)
    random = np.random.RandomState(seed)
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for character in characters:
        folder = alphabet / character
        drawings = sorted(stems(folder, ".png"))
        order = random.permutation(len(drawings))
        count = len(drawings) * _TRAINED // _DRAWINGS
        below = folder.relative_to(root).as_posix()
        splits["train"] += [f"{below}/{drawings[i]}" for i in sorted(order[:count])]
        splits["val"] += [f"{below}/{drawings[i]}" for i in sorted(order[count:])]
    return splits


def _source(root: Path, alphabet: Path, characters: Sequence[str]) -> Source:
    """Return the task of an alphabet: the label of an image is the number of its folder among the sorted ones."""
    prefix = f"{alphabet.relative_to(root).as_posix()}/"
    numbers = {character: number for number, character in enumerate(characters)}

    def find(sample_id: str) -> Path | None:
        return _file(root, sample_id) if sample_id.startswith(prefix) else None

    return Source(task_of(alphabet.name, characters), find, partial(_read_class, numbers))


def _read_class(numbers: Mapping[str, int], path: Path, _: str) -> npt.NDArray[np.int64]:
    return np.array(numbers[path.parent.name], dtype=np.int64)


def _file(root: Path, sample_id: str) -> Path:
    return root / f"{sample_id}.png"


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return a drawing as (105, 105, 3) uint8: ink is 0, paper 255."""
    image = read_picture(path)
    if image.shape[:2] != (SIDE, SIDE):
        raise UsageError(
            f"{path} is {image.shape[0]} high and {image.shape[1]} wide; drawings of Omniglot are {SIDE} by {SIDE}: restore "
            "the original file (another size to work at is chosen by --size)"
        )
    return image

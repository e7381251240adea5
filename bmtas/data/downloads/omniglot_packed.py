"""Omniglot packed: a file <alphabet>.npz with all drawings of an alphabet as bits, their characters and their splits."""

from __future__ import annotations

import zipfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.omniglot_tasks import SIDE, task_of
from bmtas.errors import UsageError

_FIELDS = ("images_packed", "label", "split")
_SPLITS = ("train", "val", "test")


def looks_packed(root: Path) -> bool:
    """Return whether `root` holds packed alphabets; one of the files is opened."""
    first = next(iter(sorted(root.glob("*.npz"))), None)
    if first is None:
        return False
    try:
        with first.open("rb") as file, np.load(file, allow_pickle=False) as fields:
            return set(_FIELDS) <= set(fields)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def packed_layout(root: Path) -> Layout:
    """Return the layout of the packed alphabets in `root`. Raises UsageError where a file is broken or built differently."""
    splits: dict[str, list[str]] = {split: [] for split in _SPLITS}
    sources = []
    for path in sorted(root.glob("*.npz")):
        labels, split_of = _field(path, "label"), _field(path, "split")
        if labels.ndim != 1 or labels.shape != split_of.shape or int(split_of.max(initial=0)) >= len(_SPLITS):
            raise UsageError(
                f"{path}: `label` of shape {labels.shape} and `split` of shape {split_of.shape} must name a character and one "
                "of the splits 0, 1, 2 for each drawing; restore the file"
            )
        for row, split in enumerate(split_of.tolist()):
            splits[_SPLITS[split]].append(f"{path.stem}/{row}")
        classes = [f"character{number + 1:02d}" for number in range(int(labels.max(initial=0)) + 1)]
        sources.append(Source(task_of(path.stem, classes), partial(_find_own, path), _read_class))
    return Layout(
        name="omniglot",
        variant="packed in a file <alphabet>.npz each, with its own splits",
        root=root,
        size=(SIDE, SIDE),
        splits={split: ids for split, ids in splits.items() if ids},
        find_image=lambda sample_id: root / f"{sample_id.partition('/')[0]}.npz",
        read_image=read_picture,
        read_image_of=_read_drawing,
        sources=tuple(sources),
        remarks=("an image has a label for the task of its own alphabet only",),
        default_tasks=tuple(source.task.name for source in sources[:5]),
    )


def _find_own(path: Path, sample_id: str) -> Path | None:
    return path if sample_id.partition("/")[0] == path.stem else None


def _read_class(path: Path, sample_id: str) -> npt.NDArray[np.int64]:
    return np.array(_field(path, "label")[_row(sample_id)], dtype=np.int64)


def _read_drawing(path: Path, sample_id: str) -> npt.NDArray[np.uint8]:
    """Return a drawing as (105, 105, 3) uint8 with ink 0 and paper 255, as in the original pictures."""
    packed, row = _field(path, "images_packed"), _row(sample_id)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] * 8 < SIDE * SIDE or row >= len(packed):
        raise UsageError(
            f"{path}: `images_packed` is {packed.dtype} of shape {packed.shape}; it has a row of {-(-SIDE * SIDE // 8)} bytes "
            "for each drawing: restore the file"
        )
    ink = np.unpackbits(packed[row])[: SIDE * SIDE].reshape(SIDE, SIDE, 1)
    return np.repeat(np.where(ink == 1, 0, 255).astype(np.uint8), 3, axis=2)


def _row(sample_id: str) -> int:
    return int(sample_id.rpartition("/")[2])


def _field(path: Path, name: str) -> npt.NDArray[Any]:
    """Return an array of a file, kept in memory as long as the file stays the same. Raises UsageError if it cannot be read."""
    try:
        state = path.stat()
        return _read_field(path, name, (state.st_mtime_ns, state.st_size))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read {name!r} in {path}: {error}; restore the file") from None


@lru_cache(maxsize=256)
def _read_field(path: Path, name: str, _: tuple[int, int]) -> npt.NDArray[Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as fields:
        field: npt.NDArray[Any] = fields[name]
    return field

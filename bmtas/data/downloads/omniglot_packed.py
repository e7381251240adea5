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
from bmtas.data.stored import header_of
from bmtas.errors import UsageError

_FIELDS = ("images_packed", "label", "split")
_SPLITS = ("train", "val", "test")
_ROW_BYTES = -(-SIDE * SIDE // 8)
_MOST_CHARACTERS = 1000  # no alphabet has more; a wild number must not fill the memory with names


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
        labels, split_of = _whole_numbers(path, "label", _MOST_CHARACTERS), _whole_numbers(path, "split", len(_SPLITS))
        _check_images(path, len(labels), len(split_of))
        for row, split in enumerate(split_of.tolist()):
            splits[_SPLITS[split]].append(f"{path.stem}/{row}")
        classes = [f"character{number + 1:02d}" for number in range(int(labels.max()) + 1)]
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
    _check_bits(path, packed.shape, packed.dtype, row + 1)
    ink = np.unpackbits(packed[row])[: SIDE * SIDE].reshape(SIDE, SIDE, 1)
    return np.repeat(np.where(ink == 1, 0, 255).astype(np.uint8), 3, axis=2)


def _whole_numbers(path: Path, name: str, end: int) -> npt.NDArray[Any]:
    """Return the field `name`: a whole number from 0 to below `end` for each drawing. Raises UsageError for anything else."""
    numbers = _field(path, name)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or not numbers.size:
        found = f"{numbers.dtype} of shape {numbers.shape}"
    elif numbers.min() < 0 or numbers.max() >= end:
        found = f"from {numbers.min()} to {numbers.max()}"
    else:
        return numbers
    raise UsageError(
        f"{path}: `{name}` is {found}; it has a whole number from 0 to {end - 1} for each drawing: restore the file"
    )


def _check_images(path: Path, labels: int, splits: int) -> None:
    """Raise UsageError if the drawings, whose header alone is read, are not as many as `labels` and `splits`, or no bits."""
    try:
        with zipfile.ZipFile(path) as file, file.open("images_packed.npy") as field:
            shape, dtype = header_of(field)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(path, "images_packed", error) from None
    _check_bits(path, shape, dtype, 1)
    if not shape[0] == labels == splits:
        raise UsageError(
            f"{path} holds {shape[0]} drawings in `images_packed`, {labels} numbers in `label` and {splits} in `split`; each "
            "drawing has one of both: restore the file"
        )


def _check_bits(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], rows: int) -> None:
    """Raise UsageError if an array is none of at least `rows` drawings as bits."""
    if dtype != np.uint8 or len(shape) != 2 or shape[1] < _ROW_BYTES or shape[0] < rows:
        raise UsageError(
            f"{path}: `images_packed` is {dtype} of shape {shape}; it has a row of {_ROW_BYTES} bytes for each drawing: restore "
            "the file"
        )


def _row(sample_id: str) -> int:
    return int(sample_id.rpartition("/")[2])


def _field(path: Path, name: str) -> npt.NDArray[Any]:
    """Return an array of a file, kept in memory as long as the file stays the same. Raises UsageError if it cannot be read."""
    try:
        state = path.stat()
        return _read_field(path, name, (state.st_mtime_ns, state.st_size))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(path, name, error) from None


def _broken(path: Path, name: str, error: Exception) -> UsageError:
    return UsageError(f"cannot read {name!r} in {path}: {error}; restore the file")


@lru_cache(maxsize=256)
def _read_field(path: Path, name: str, _: tuple[int, int]) -> npt.NDArray[Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as fields:
        field: npt.NDArray[Any] = fields[name]
    return field

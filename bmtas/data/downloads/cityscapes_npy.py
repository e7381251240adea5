"""Cityscapes prepared as .npy files, as MTAN, LibMTL and AdaShare use it: folders of numbered files, or `cityscape.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import Coding, array_size, class_ids, read_array_image, read_plane
from bmtas.data.downloads.base import Layout, Source
from bmtas.data.downloads.files import numbered, stems
from bmtas.data.downloads.index import read_rows
from bmtas.data.downloads.places import check_folders
from bmtas.errors import UsageError
from bmtas.tasks import IGNORE, Task, TaskKind

PUBLISHED = {"train": 2975, "val": 500}
"""Images in each split."""

CLASSES = {
    19: tuple(
        "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,"
        "bus,train,motorcycle,bicycle".split(",")
    ),
    7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    2: ("background", "foreground"),
}
"""The three sets of classes by their number: classes, their categories, and whether it is human or vehicle."""

INDEX = "cityscape.json"
_COLUMNS = {"image": r"(?i)im(a)?g", "depth": r"(?i)depth|disp"}
_COLUMNS |= {f"label_{count}": rf"(?<!\d){count}(?!\d)" for count in sorted(CLASSES)}
_CODINGS = {count: Coding(f"the set of {count} classes", 0, count, -1) for count in CLASSES}
_LOOKED_AT = 8  # label files from whose largest id the set of classes is told, where no name tells it


@dataclass(frozen=True)
class _Files:
    """The files of a variant: ids per split, the file of a column and an id, the column that holds each set of classes."""

    splits: Mapping[str, Sequence[str]]
    find: Callable[[str, str], Path]
    labels: Mapping[int, str]
    variant: str
    remarks: tuple[str, ...] = ()


def looks_npy(root: Path) -> bool:
    """Return whether `root` holds Cityscapes as .npy files; with normal/ it would be NYUD-v2."""
    if (root / INDEX).is_file():
        return True
    parts = [root / split for split in PUBLISHED]
    whole = any((p / "image").is_dir() and (p / "depth").is_dir() and _label_folders(p) for p in parts)
    return whole and not any((p / "normal").is_dir() for p in parts)


def detect_npy(root: Path) -> Layout:
    """Return the layout of what `looks_npy` in `root`. Raises UsageError where a part is missing or is something else."""
    files = _indexed(root) if (root / INDEX).is_file() else _in_folders(root)
    size = _size(files)
    finest, *coarser = sorted(files.labels, reverse=True)
    names = {finest: "semseg", **{count: f"semseg_{count}" for count in coarser}}
    semseg, *others = (
        Source(
            Task(name=name, kind=TaskKind.SEGMENTATION, classes=CLASSES[count]),
            partial(files.find, files.labels[count]),
            partial(_read_label, count),
        )
        for count, name in names.items()
    )
    disparity = Source(
        Task(name="disparity", kind=TaskKind.REGRESSION),
        partial(files.find, "depth"),
        lambda path, _: _read_disparity(path),
    )
    scale = "disparity is the inverse depth of the files in a scale that nobody states: never compare absolute errors across sources"
    remarks = [scale, *files.remarks]
    if 2 in files.labels:
        remarks.append("of the 2 classes, foreground is human and vehicle, background everything else that counts")
    if coarser:
        remarks.append(f"further label sets of the same images are the tasks {', '.join(o.task.name for o in others)}")
    return Layout(
        name="cityscapes",
        variant=f"{files.variant}, {finest} classes at {size[0]}x{size[1]}",
        root=root,
        size=size,
        splits=files.splits,
        find_image=partial(files.find, "image"),
        read_image=read_array_image,
        sources=(semseg, disparity, *others),
        expected=PUBLISHED,
        remarks=tuple(remarks),
        default_tasks=("semseg", "disparity"),
    )


def _indexed(root: Path) -> _Files:
    """Return the files that AdaShare's index names; its test split is our val."""
    index = read_rows(root / INDEX, _COLUMNS)
    return _Files(
        {split: index.splits[split] for split in PUBLISHED},
        lambda column, sample_id: root / index.rows[sample_id][column],
        {count: f"label_{count}" for count in CLASSES},
        f".npy files by {INDEX} (AdaShare)",
        ("val is what the index calls test",) if index.val_is_test else (),
    )


def _in_folders(root: Path) -> _Files:
    """Return the numbered files in the folders of both splits. Raises UsageError if one lacks a folder of the other."""
    known = {"image", "depth", *(name for split in PUBLISHED for name in _label_folders(root / split))}
    check_folders(root, [f"{split}/{c}" for split in PUBLISHED for c in sorted(known)], "Cityscapes as .npy files")
    columns = sorted(known - {"image", "depth"})
    splits = {
        split: tuple(
            f"{split}/{stem}"
            for stem in sorted({s for c in known for s in stems(root / split / c, ".npy")}, key=numbered)
        )
        for split in PUBLISHED
    }

    def find(column: str, sample_id: str) -> Path:
        split, _, stem = sample_id.partition("/")
        return root / split / column / f"{stem}.npy"

    labels = {}
    for column in columns:  # `label` comes first, so that a folder whose name tells its classes takes its place
        count = int(column[6:]) if column[6:] else _count_classes([find(column, i) for i in splits["train"]])
        labels[count] = column
    told = [
        f"label/ is taken for the set of {c} classes, by the largest id met" for c, n in labels.items() if n == "label"
    ]
    return _Files(splits, find, labels, ".npy files in folders (MTAN, LibMTL)", tuple(told))


def _label_folders(split: Path) -> list[str]:
    names = ("label", *(f"label_{count}" for count in CLASSES))
    return [name for name in names if (split / name).is_dir()]


def _count_classes(paths: Sequence[Path]) -> int:
    """Return which set of classes some of the label files hold: the smallest that has room for their ids."""
    # A file may lack the higher ids, several that are spread over the split hardly do; `load` refuses what does not fit.
    present = [path for path in paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT] if path.is_file()]
    largest = max((_largest(read_plane(path)) for path in present), default=0)
    return next((count for count in sorted(CLASSES) if largest < count), max(CLASSES))


def _largest(ids: npt.NDArray[Any]) -> float:
    return float(ids[ids != IGNORE].max(initial=0))


def _size(files: _Files) -> tuple[int, int]:
    """Return (height, width) of the first image that is there. Raises UsageError if it is none of Cityscapes."""
    paths = (files.find("image", i) for ids in files.splits.values() for i in ids)
    first = next((path for path in paths if path.is_file()), None)
    if first is None:
        return 128, 256  # nothing can be read; the files that are missing are told by who asks for them
    height, width = array_size(first)
    if width != 2 * height:
        raise UsageError(
            f"{first} is {height} high and {width} wide, but images of Cityscapes are twice as wide as high; without "
            "its normal/ the NYUD-v2 of MTAN (288x384, 13 classes) has the same folders: add normal/ if it is that"
        )
    return height, width


def _read_label(count: int, path: Path, _: str) -> npt.NDArray[np.uint8]:
    """Return class ids, (H, W), 255 where the file says -1, or 255 as -1 reads without a sign."""
    raw = read_plane(path)
    signed = np.where(raw == IGNORE, -1, raw.astype(np.float64))
    return class_ids(path, signed, _CODINGS[count], [_CODINGS[c] for c in sorted(CLASSES) if c > count])


def _read_disparity(path: Path) -> npt.NDArray[np.float32]:
    """Return inverse depth in the file's own scale, (H, W), NaN where it is 0 or -1."""
    values = read_plane(path).astype(np.float32)
    wrong = (values < 0) & (values != -1)
    if wrong.any():
        raise UsageError(
            f"{path}: value {float(values[wrong][0]):g} ({int(wrong.sum())} pixels are negative); disparity is positive and 0 "
            "or -1 where there is none: download it again"
        )
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(np.nan))

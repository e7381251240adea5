"""The variants of NYUD-v2 whose files are found by lists: with three tasks (AdaShare), and with two (NDDR-CNN)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from bmtas.data.downloads import nyud_common as common
from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.nyud_common import looked_up
from bmtas.data.downloads.places import check_unique, first_size, read_index, read_lines
from bmtas.errors import UsageError

ADASHARE_INDEX = "nyu_v2_3task.json"
_KEYS = {
    "img": ("img", "image", "rgb"),
    "seg": ("seg", "semseg", "segmentation", "label"),
    "normal": ("normal", "normals", "sn"),
    "depth": ("depth",),
}
"""What the files of a row are called, in the order in which a row without names lists them."""
_PICTURES = (".png", ".jpg", ".jpeg")

_PARTS = {"train": "training", "val": "testing"}
_KINDS = ("seg", "normal_mask")
NDDR_LISTS = tuple(f"{part}_{kind}.txt" for part in _PARTS.values() for kind in _KINDS)


def adashare(root: Path) -> Layout:
    """Return the layout of the variant with three tasks that an index in JSON describes.

    Raises UsageError where the index has no rows for training or test, or a row does not name its four files.
    """
    index = root / ADASHARE_INDEX
    rows = {
        split: [_row(index, number, row) for number, row in enumerate(listed)]
        for split, listed in _splits(index, read_index(index)).items()
    }
    splits = {split: [_stem(row["img"]) for row in listed] for split, listed in rows.items()}
    for ids in splits.values():
        check_unique(index, ids)
    every = [row for listed in rows.values() for row in listed]
    base = _base(root, every[0]["img"])
    tables = {key: {_stem(row["img"]): base / row[key] for row in every} for key in _KEYS}
    return Layout(
        name="nyud-v2",
        variant=f"AdaShare, AutoMTL: 3 tasks, with {ADASHARE_INDEX}",
        root=root,
        size=first_size(tables["img"].values(), root),
        splits=splits,
        find_image=partial(looked_up, tables["img"]),
        read_image=read_picture,
        sources=(
            Source(common.SEMSEG, partial(looked_up, tables["seg"]), partial(common.read_semseg, common.FROM_ZERO)),
            Source(common.DEPTH, partial(looked_up, tables["depth"]), common.read_depth),
            Source(common.NORMALS, partial(looked_up, tables["normal"]), common.read_upright_normals),
        ),
        expected=common.EXPECTED,
        remarks=(
            common.SIZE,
            "this variant has no edges; its split 'test' is 'val' here, if it has no other 'val'",
            "normals: in the files red is x right, green is z forward, blue is y up; here y points down, as in all data sets",
            common.FLIP,
        ),
    )


def nddr(root: Path) -> Layout:
    """Return the layout of the variant with two tasks that lists of pairs describe.

    Raises UsageError where a list is missing, is not one of pairs, or lists other images than that of the other task.
    """
    folder = root / "list"
    absent = [name for name in NDDR_LISTS if not (folder / name).is_file()]
    if absent:
        raise UsageError(
            f"{folder} lacks {', '.join(absent)}; NYUD-v2 of NDDR-CNN and MTL-NAS has a list per split and task: unpack or "
            "download it again"
        )
    labels: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
    splits: dict[str, list[str]] = {}
    for split, part in _PARTS.items():
        lists = {kind: _pairs(folder / f"{part}_{kind}.txt") for kind in _KINDS}
        odd = sorted(lists["seg"].keys() ^ lists["normal_mask"].keys())
        if odd:
            raise UsageError(
                f"{folder}: {part}_seg.txt and {part}_normal_mask.txt differ in {len(odd)} images, {odd[0]} for one; both "
                "list the images of one split: download them together"
            )
        for kind in _KINDS:
            labels[kind] |= lists[kind]
        splits[split] = [_stem(image) for image in lists["seg"]]
        check_unique(folder / f"{part}_seg.txt", splits[split])
    base = _base(root, next(iter(labels["seg"]), ""))
    images = {_stem(image): base / image for image in labels["seg"]}
    tables = {kind: {_stem(image): base / label for image, label in table.items()} for kind, table in labels.items()}
    return Layout(
        name="nyud-v2",
        variant="NDDR-CNN, MTL-NAS: 2 tasks, with list/training_seg.txt",
        root=root,
        size=first_size(images.values(), root),
        splits=splits,
        find_image=partial(looked_up, images),
        read_image=read_picture,
        sources=(
            Source(common.SEMSEG, partial(looked_up, tables["seg"]), partial(common.read_semseg, common.FROM_ZERO)),
            Source(common.NORMALS, partial(looked_up, tables["normal_mask"]), common.read_normals),
        ),
        expected=common.EXPECTED,
        remarks=(
            common.SIZE,
            "this variant has no depth and no edges; its split 'testing' is 'val' here",
            common.AXES,
            common.FLIP,
        ),
    )


def _splits(index: Path, found: Any) -> dict[str, list[Any]]:
    """Return the rows of `train`, `val` and maybe `test` in what an index holds. Raises UsageError."""
    given = found if isinstance(found, Mapping) else {}
    train = given.get("train")
    if train is None and "train1" in given and "train2" in given:  # the halves on which AutoMTL searches
        halves = (given["train1"], given["train2"])
        train = [row for half in halves if isinstance(half, list) for row in half]
    held = {name: given[name] for name in ("val", "test") if name in given}
    splits = {"train": train, **(held if "val" in held else {"val": held.get("test")})}
    for split, rows in splits.items():
        if not isinstance(rows, list) or not rows:
            keys = ", ".join(map(repr, given)) or "none"
            raise UsageError(
                f"{index} has no list of rows for the split {split!r} (its keys: {keys}); it needs 'train' (or 'train1' and "
                "'train2') and 'test' (or 'val'), each a list of rows: download it again"
            )
    return splits


def _row(index: Path, number: int, row: Any) -> dict[str, str]:
    """Return the paths of a row by `_KEYS`. Raises UsageError where one is missing or has a wrong ending."""
    where = f"{index}: row {number + 1} of a split, {row!r},"
    if isinstance(row, list) and len(row) == len(_KEYS):
        row = dict(zip(_KEYS, row, strict=True))
    if not isinstance(row, Mapping):
        raise UsageError(
            f"{where} is neither an object with {', '.join(_KEYS)} nor a list of four paths in this order; correct the index"
        )
    paths = {}
    for key, names in _KEYS.items():
        path = next((row[name] for name in names if name in row), None)
        endings = (".npy",) if key == "depth" else _PICTURES
        if not isinstance(path, str) or PurePosixPath(path).suffix.lower() not in endings:
            raise UsageError(
                f"{where} gives {path!r} as {key!r}; it needs a path below the index's folder that ends in "
                f"{' or '.join(endings)}: correct the index"
            )
        paths[key] = _relative(index, path)
    return paths


def _pairs(path: Path) -> dict[str, str]:
    """Return the label of each image in a list of lines `/image /label`, paths below the data set's folder."""
    pairs: dict[str, str] = {}
    for line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise UsageError(f"{path}: the line {line!r} is not '/image /label'; correct it or download the list again")
        image, label = (_relative(path, field) for field in fields)
        if image in pairs:
            raise UsageError(f"{path}: {image} stands twice; keep one line per image")
        pairs[image] = label
    return pairs


def _relative(where: Path, path: str) -> str:
    """Return `path` without a slash before it. Raises UsageError if it leads out of the data set's folder."""
    parts = PurePosixPath(path.lstrip("/"))
    if ".." in parts.parts:
        raise UsageError(f"{where}: the path {path!r} leads out of the data set's folder; write it relative to that")
    return str(parts)


def _base(root: Path, first: str) -> Path:
    """Return the folder to which paths are relative: `root`, or the one above where they begin with its name."""
    above = not (root / first).is_file() and (root.parent / first).is_file()
    return root.parent if above else root


def _stem(path: str) -> str:
    """Return an image's id: its path without its ending."""
    return str(PurePosixPath(path).with_suffix(""))

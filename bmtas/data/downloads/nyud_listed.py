"""The variants of NYUD-v2 whose files are found by lists: with three tasks (AdaShare), and with two (NDDR-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from bmtas.data.downloads import nyud_common as common
from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.index import read_rows, relative, stem
from bmtas.data.downloads.nyud_common import looked_up
from bmtas.data.downloads.places import check_unique, first_size, read_lines
from bmtas.errors import UsageError

ADASHARE_INDEX = "nyu_v2_3task.json"
_COLUMNS = {
    "img": r"^(img|image|rgb)$",
    "seg": r"^(seg|semseg|segmentation|label)$",
    "normal": r"^(normals?|sn)$",
    "depth": r"^depth$",
}
"""What the files of a row are called, in the order in which a row without names lists them."""
_PICTURES = (".png", ".jpg", ".jpeg")
_ENDINGS = {"img": _PICTURES, "seg": _PICTURES, "normal": _PICTURES, "depth": (".npy",)}

_PARTS = {"train": "training", "val": "testing"}
_KINDS = ("seg", "normal_mask")
NDDR_LISTS = tuple(f"{part}_{kind}.txt" for part in _PARTS.values() for kind in _KINDS)


def adashare(root: Path) -> Layout:
    """Return the layout of the variant with three tasks that an index in JSON describes.

    Raises UsageError where the index has no rows for training or test, or a row does not name its four files.
    """
    index = read_rows(root / ADASHARE_INDEX, _COLUMNS, _ENDINGS)
    base = _base(root, [path for row in index.rows.values() for path in row.values()])
    tables = {column: {i: base / row[column] for i, row in index.rows.items()} for column in _COLUMNS}
    return Layout(
        name="nyud-v2",
        variant=f"AdaShare, AutoMTL: 3 tasks, with {ADASHARE_INDEX}",
        root=root,
        size=first_size(tables["img"].values(), root),
        splits=index.splits,
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
        splits[split] = [stem(image) for image in lists["seg"]]
        check_unique(folder / f"{part}_seg.txt", splits[split])
    base = _base(root, [path for table in labels.values() for pair in table.items() for path in pair])
    images = {stem(image): base / image for image in labels["seg"]}
    tables = {kind: {stem(image): base / label for image, label in table.items()} for kind, table in labels.items()}
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


def _pairs(path: Path) -> dict[str, str]:
    """Return the label of each image in a list of lines `/image /label`, paths below the data set's folder."""
    pairs: dict[str, str] = {}
    for line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise UsageError(f"{path}: the line {line!r} is not '/image /label'; correct it or download the list again")
        image, label = (relative(path, field) for field in fields)
        if image in pairs:
            raise UsageError(f"{path}: {image} stands twice; keep one line per image")
        pairs[image] = label
    return pairs


def _base(root: Path, paths: Sequence[str]) -> Path:
    """Return the folder to which `paths` are relative: `root`, or the one above where they begin with its name.

    Raises UsageError where some do and others do not.
    """
    if not paths or (root / paths[0]).is_file() or not (root.parent / paths[0]).is_file():
        return root
    outside = next((path for path in paths if PurePosixPath(path).parts[0] != root.name), None)
    if outside is not None:
        raise UsageError(
            f"{root}: the path {outside!r} leads out of the data set's folder, while {paths[0]!r} begins with its name; "
            "correct the list"
        )
    return root.parent

"""PASCAL-Context with five tasks, as PASCAL_MT.tgz (ASTMT) and its mirror PASCALContext.tar.gz (InvPT) hold it.

The folder is only read: the list of human parts that other tools write to ImageSets/Parts is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import Coding, class_ids, coloured_normals, read_plane
from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.files import stems
from bmtas.data.downloads.mat import read_mat
from bmtas.data.downloads.places import check_folders, check_unpacked, places, read_index, read_list
from bmtas.errors import UsageError
from bmtas.tasks import TASK_SETS
from bmtas.thinning import thin_bits

_LISTS = "ImageSets/Context"
_CONTEXT = "pascal-context/trainval"
_FOLDERS = (
    "JPEGImages",
    _LISTS,
    "semseg/VOC12",
    "semseg/pascal-context",
    "human_parts",
    "normals_distill",
    "sal_distill",
    _CONTEXT,
)
_DISTINCT = (_LISTS, "normals_distill", "sal_distill", _CONTEXT, "semseg/pascal-context")
"""What other distributions of PASCAL VOC do not have."""
_INSIDE = tuple(name.split("/")[0] for name in _FOLDERS)
_ARCHIVES = ("PASCAL_MT.tgz", "PASCALContext.tar.gz")

_VOC = Coding("VOC's 21 classes", 0, 21, 255)
_OTHERS = (
    Coding("the 59 classes of PASCAL-Context and background", 0, 60, 255),
    Coding("the 459 classes of PASCAL-Context", 1, 459, 0),
)

_PERSON = 15
"""The class of people in `anno`, as in VOC."""
_PARTS = {
    **dict.fromkeys("head lear rear leye reye lebrow rebrow nose mouth hair".split(), 1),
    **dict.fromkeys("torso neck".split(), 2),
    **dict.fromkeys("luarm ruarm".split(), 3),
    **dict.fromkeys("llarm rlarm lhand rhand".split(), 4),
    **dict.fromkeys("luleg ruleg".split(), 5),
    **dict.fromkeys("llleg rlleg lfoot rfoot".split(), 6),
}
"""The group (class of the task `parts`) of each name that PASCAL-Part gives to a part of a person."""

_REMARKS = (
    "images keep their size and are padded to 512 x 512, as in the published evaluation",
    "semseg is read from semseg/VOC12 where an image is there, else from semseg/pascal-context",
    "parts: an image without a person, or whose persons have no parts drawn, has no label",
    "parts: a person without parts beside one with parts is background",
    "normals and saliency come from networks (distilled), not from people",
    "normals: x is taken to point right, y and z as the files have them, which no angle between normals depends on",
    "edge is computed from the label map of pascal-context: its Laplacian, thinned",
)
_NO_NORMALS = (
    "normals are left out unless they are named: {folder} does not hold nyu_classes.json and context_classes.json, which say "
    "on which classes the published experiments count them; copy the folder db_info there from the data set's published code"
)


def detect(root: Path) -> Layout | None:
    """Return the layout of the data set in `root`, None if it is not there.

    `root` may also be the folder above, if it holds no other folder, or one of those inside. Raises UsageError where the
    data set is recognised but folders or lists are missing or wrong.
    """
    for place in places(root, _INSIDE):
        if any((place / name).is_dir() for name in _DISTINCT):
            return _layout(place)
    check_unpacked(root, _ARCHIVES)
    return None


def _layout(root: Path) -> Layout:
    check_folders(root, _FOLDERS, "PASCAL-Context with five tasks (PASCAL_MT)")
    kept = _classes_with_normals(root / "db_info")
    names = [task.name for task in TASK_SETS["pascal-context"]]
    counted = "normals not restricted to classes" if kept is None else f"normals on {len(kept)} classes"
    remarks = _REMARKS if kept is not None else (*_REMARKS, _NO_NORMALS.format(folder=root / "db_info"))
    return Layout(
        name="pascal-context",
        variant=f"PASCAL_MT (ASTMT) or its mirror PASCALContext (InvPT); {counted}",
        root=root,
        size=(512, 512),
        splits={split: read_list(root / _LISTS / f"{split}.txt") for split in ("train", "val")},
        find_image=partial(_file, root / "JPEGImages", ".jpg"),
        read_image=read_picture,
        sources=_sources(root, kept),
        expected={"train": 4998, "val": 5105},
        pad=True,
        remarks=remarks,
        default_tasks=None if kept is not None else tuple(name for name in names if name != "normals"),
    )


def _sources(root: Path, kept: frozenset[int] | None) -> tuple[Source, ...]:
    semseg, parts, saliency, normals, edge = TASK_SETS["pascal-context"]
    # Listed once: a file that goes missing later is not replaced by that of the other folder.
    voc = frozenset(stems(root / "semseg/VOC12", ".png"))
    return (
        Source(semseg, partial(_find_semseg, root / "semseg", voc), _read_semseg),
        Source(parts, partial(_file, root / "human_parts", ".mat"), _read_parts),
        Source(saliency, partial(_file, root / "sal_distill", ".png"), _read_saliency),
        Source(normals, partial(_file, root / "normals_distill", ".png"), partial(_read_normals, root, kept)),
        Source(edge, partial(_file, root / _CONTEXT, ".mat"), _read_edge),
    )


def _file(folder: Path, suffix: str, sample_id: str) -> Path:
    return folder / f"{sample_id}{suffix}"


def _find_semseg(folder: Path, voc: frozenset[str], sample_id: str) -> Path:
    return _file(folder / ("VOC12" if sample_id in voc else "pascal-context"), ".png", sample_id)


def _read_semseg(path: Path, _: str) -> npt.NDArray[np.uint8]:
    return class_ids(path, read_plane(path), _VOC, _OTHERS)


def _read_saliency(path: Path, _: str) -> npt.NDArray[np.uint8]:
    grey = read_plane(path)
    if grey.dtype == np.bool_:
        return grey.astype(np.uint8)
    if grey.dtype != np.uint8:
        raise UsageError(
            f"{path} holds {grey.dtype}; saliency is 8-bit grey, salient above 127: take the file of PASCAL_MT"
        )
    return (grey > 127).astype(np.uint8)


def _label_map(path: Path) -> npt.NDArray[np.int64]:
    """Return the class of each pixel, (H, W), of 459 classes from 1. Raises UsageError if these are no class ids."""
    raw = read_plane(path, "LabelMap")
    if not (np.all(raw >= 0) and np.all(raw == np.floor(raw))):
        raise UsageError(f"{path}: LabelMap holds numbers that are no class ids (whole, from 0 on); download it again")
    return raw.astype(np.int64)


def _read_edge(path: Path, _: str) -> npt.NDArray[np.uint8]:
    """Return 1 on the thinned set of pixels at which the Laplacian of the label map is not 0; (H, W)."""
    label = _label_map(path)
    # The border is mirrored about its outermost pixels, as image libraries do by default.
    padded = np.pad(label, 1, mode="reflect") if min(label.shape) > 1 else np.pad(label, 1, mode="edge")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * label
    return thin_bits((laplacian != 0).astype(np.uint64)).astype(np.uint8)


def _read_normals(root: Path, kept: frozenset[int] | None, path: Path, sample_id: str) -> npt.NDArray[np.float32]:
    """Return unit normals (H, W, 3), (0, 0, 0) on classes other than `kept`."""
    if kept is None:
        raise UsageError(f"{path}: {_NO_NORMALS.format(folder=root / 'db_info')}")
    normals = coloured_normals(path, (0, 1, 2), (1, 1, 1))
    classes = _file(root / _CONTEXT, ".mat", sample_id)
    label = _label_map(classes)
    if label.shape != normals.shape[:2]:
        raise UsageError(
            f"{classes} is {label.shape[0]} high and {label.shape[1]} wide but {path} is {normals.shape[0]} high and "
            f"{normals.shape[1]} wide; both belong to one image: download them together"
        )
    normals[~np.isin(label, list(kept))] = 0
    return normals


def _read_parts(path: Path, _: str) -> npt.NDArray[np.uint8] | None:
    """Return the groups of the parts of all persons, (H, W), None if no part of a person is drawn."""
    anno = read_mat(path, "anno")
    label: npt.NDArray[np.uint8] | None = None
    try:
        # Every level is an array of records: of one image, of its objects, of the parts of an object.
        drawn = [
            (str(np.ravel(part[0])[0]), np.asarray(part[1]))
            for item in np.ravel(np.ravel(anno)[0][1])
            if int(np.ravel(item[1])[0]) == _PERSON
            for part in np.ravel(item[3])
        ]
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{path}: 'anno' is not nested as in PASCAL-Part (an image's name and its objects; of each its class, number, "
            f"mask and parts; of each part its name and mask): {error}; replace the file by that of PASCAL_MT"
        ) from None
    for name, mask in drawn:
        if label is None:
            label = np.zeros(mask.shape, dtype=np.uint8)
        inside = _inside(path, name, mask, label.shape)
        label[inside] = _PARTS[name]
    return label


def _inside(path: Path, name: str, mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return where `mask` of the part `name` is set. Raises UsageError for an unknown part or a mask of another shape."""
    if name not in _PARTS:
        raise UsageError(f"{path}: {name!r} is no part of a person in PASCAL-Part; known: {', '.join(sorted(_PARTS))}")
    if mask.ndim != 2 or mask.shape != shape or mask.dtype.kind not in "biuf":
        raise UsageError(
            f"{path}: the mask of {name!r} is {mask.dtype} of shape {mask.shape}, another is of shape {shape}; all have "
            "the size of the image: download the file again"
        )
    inside: npt.NDArray[np.bool_] = mask != 0
    return inside


def _classes_with_normals(folder: Path) -> frozenset[int] | None:
    """Return the ids in the label maps of the classes that NYU knows too, and of tvmonitor; None without the two lists."""
    paths = (folder / "nyu_classes.json", folder / "context_classes.json")
    absent = [path for path in paths if not path.is_file()]
    if len(absent) == len(paths):
        return None
    if absent:
        raise UsageError(f"{absent[0]} is missing beside the other list of classes; copy both from the same source")
    nyu, context = (_read_classes(path) for path in paths)
    if "tvmonitor" not in context:
        raise UsageError(
            f"{paths[1]} does not know 'tvmonitor', a class of PASCAL-Context; it is another list: replace it"
        )
    return frozenset(i for name, i in context.items() if name in nyu or name == "tvmonitor")


def _read_classes(path: Path) -> Mapping[str, int]:
    """Return the id of each class in a JSON file: an object of ids by name, or a list of names, the first with id 1."""
    found = read_index(path)
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        found = {name: i for i, name in enumerate(found, start=1)}
    if not isinstance(found, dict) or not found or not all(type(i) is int for i in found.values()):
        raise UsageError(
            f'{path} lists classes neither as {{"name": id}} nor as ["name", ...] (ids from 1 on); replace it by that of the '
            "data set's published code"
        )
    return found

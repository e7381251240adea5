"""Cityscapes as it is downloaded: leftImg8bit, gtFine and disparity. The forms in .npy: `bmtas.data.downloads.cityscapes_npy`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import read_plane
from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.cityscapes_npy import CLASSES, PUBLISHED, detect_npy, looks_npy
from bmtas.data.downloads.files import folders, read_sixteen_bit, stems
from bmtas.data.downloads.places import places
from bmtas.errors import UsageError
from bmtas.tasks import IGNORE, Task, TaskKind

_PACKAGES = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_labelIds.png", "disparity": "_disparity.png"}
"""The packages, each a folder of the same name, with the ends of the files that are used of it."""

_ASKED = ("leftImg8bit", "gtFine")
_PARTS = ("train", "val", *_PACKAGES, *(f"{name}_trainvaltest" for name in _PACKAGES))

# The label ids that are trained on, in the order of the 19 classes; the other ids up to 33 do not count.
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_IDS = 34
_UNKNOWN = 254
_CLASS_OF = np.full(256, _UNKNOWN, dtype=np.uint8)
_CLASS_OF[:_IDS] = IGNORE
_CLASS_OF[list(_TRAINED)] = range(len(_TRAINED))


def detect(root: Path) -> Layout | None:
    """Return the layout of Cityscapes in `root`, in the folder above or in the only one below; None if it is not there.

    Raises UsageError where packages are missing, or where several forms lie in one folder.
    """
    candidates = [p for p in places(root, _PARTS) if _looks_raw(p) or looks_npy(p)]
    # The folder of one unpacked archive looks like a part; the folder above it may hold all of them.
    found = next((p for p in candidates if _missing(p) is None), candidates[0] if candidates else None)
    if found is None:
        return None
    if _looks_raw(found) and looks_npy(found):
        raise UsageError(
            f"{found} holds Cityscapes both as it is downloaded (leftImg8bit/ or gtFine/) and as .npy files; move each into "
            "a folder of its own"
        )
    return _raw_layout(found) if _looks_raw(found) else detect_npy(found)


def _package(root: Path, name: str) -> Path | None:
    """Return the folder of a package: beside the others, or in the folder that some tools unpack its archive into."""
    choices = (root / name, root / f"{name}_trainvaltest" / name)
    return next((path for path in choices if path.is_dir()), None)


def _missing(root: Path) -> str | None:
    """Return the first package that is asked for beside those that are in `root`; None for the forms in .npy."""
    return next((name for name in _ASKED if _looks_raw(root) and _package(root, name) is None), None)


def _looks_raw(root: Path) -> bool:
    return any(_package(root, name) is not None for name in _ASKED)


def _raw_layout(root: Path) -> Layout:
    images, labels, disparity = (_package(root, name) for name in _PACKAGES)
    if images is None or labels is None:
        missing = _missing(root)
        raise UsageError(
            f"{root} holds a part of Cityscapes, but no {missing}/; unpack {missing}_trainvaltest.zip in it, beside the others"
        )
    found = [*zip((images, labels), _ASKED, strict=True)]
    splits = {split: sorted({i for p, name in found for i in _ids(p, name, split)}) for split in PUBLISHED}
    semseg = Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=CLASSES[19])
    sources = [Source(semseg, partial(_file, labels, "gtFine"), _read_ids)]
    remarks = []
    if disparity is not None and any(_ids(disparity, "disparity", split) for split in PUBLISHED):
        sources.append(
            Source(
                Task(name="disparity", kind=TaskKind.REGRESSION),
                partial(_file, disparity, "disparity"),
                lambda path, _: _read_disparity(path),
            )
        )
        remarks += [
            "disparity is in pixels of the full 2048-wide image: it is scaled by nothing when images are resized",
            "never compare absolute disparity errors with those of another source: the .npy forms have a scale of their own",
        ]
    else:
        remarks.append(
            "there are no disparity maps, so semseg is the only task; for the second one unpack disparity_trainvaltest.zip "
            "beside gtFine/"
        )
    if (images / "test").is_dir():
        remarks.append("the test split is left out: its labels are not public")
    return Layout(
        name="cityscapes",
        variant="as it is downloaded (leftImg8bit, gtFine, disparity), 19 classes",
        root=root,
        size=(1024, 2048),
        splits=splits,
        find_image=partial(_file, images, "leftImg8bit"),
        read_image=read_picture,
        sources=tuple(sources),
        expected=PUBLISHED,
        remarks=tuple(remarks),
    )


def _ids(package: Path, name: str, split: str) -> list[str]:
    """Return split/city/image of the files of a split, without what differs between packages."""
    return [f"{split}/{city.name}/{stem}" for city in folders(package / split) for stem in stems(city, _PACKAGES[name])]


def _file(package: Path, name: str, sample_id: str) -> Path:
    return package / f"{sample_id}{_PACKAGES[name]}"


def _read_ids(path: Path, _: str) -> npt.NDArray[np.uint8]:
    """Return the 19 classes of a file of label ids, (H, W), 255 elsewhere."""
    ids = read_plane(path)
    if ids.dtype != np.uint8:
        raise UsageError(
            f"{path} holds {ids.dtype}; label ids are an 8-bit image: restore it from gtFine_trainvaltest.zip"
        )
    classes = _CLASS_OF[ids]
    unknown = classes == _UNKNOWN
    if unknown.any():
        value = int(ids[unknown][0])
        looks = "; 255 beside ids up to 18 is how labelTrainIds look" if value == IGNORE else ""
        raise UsageError(
            f"{path}: value {value} ({int(unknown.sum())} pixels) is no label id, which go from 0 to {_IDS - 1}{looks}: "
            "restore the file from gtFine_trainvaltest.zip"
        )
    return classes


def _read_disparity(path: Path) -> npt.NDArray[np.float32]:
    """Return disparity in pixels of the full image, (H, W), NaN where it was not measured."""
    raw = read_sixteen_bit(path)
    return np.where(raw == 0, np.nan, (raw - 1) / 256).astype(np.float32)

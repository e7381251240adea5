"""What the variants of NYUD-v2 share: their tasks, what a user should know of them, and how their label files are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import (
    Coding,
    array_normals,
    class_ids,
    coloured_normals,
    metres,
    read_array_image,
    read_plane,
)
from bmtas.data.stored import Array
from bmtas.errors import UsageError
from bmtas.tasks import IGNORE, TASK_SETS, Task, TaskKind

SEMSEG, DEPTH, NORMALS, EDGE = TASK_SETS["nyud-v2"]
SEMSEG_13 = Task(
    name="semseg",
    kind=TaskKind.SEGMENTATION,
    classes=tuple("bed books ceiling chair floor furniture objects picture sofa table tv wall window".split()),
)

EXPECTED = {"train": 795, "val": 654}

SIZE = "the paper works at 425 x 560 (height x width); here the size of the first image is taken"
AXES = (
    "normals: x is taken to point right, y and z as the files have them: no angle between normals depends on it, as long "
    "as training and labels agree"
)
FLIP = "mirroring an image negates x of its normals, which the published code of this variant does not do"

FROM_ONE = Coding("ASTMT and MTL-PyTorch: 40 classes, 0 is background", 1, 40, 0)
FROM_ZERO = Coding("AdaShare, AutoMTL, NDDR-CNN and MTL-NAS: 40 classes", 0, 40, IGNORE)
THIRTEEN = Coding("MTAN: 13 classes", 0, 13, -1)
_CODINGS = (FROM_ONE, FROM_ZERO, THIRTEEN)


def file_of(folder: Path, suffix: str, sample_id: str) -> Path:
    """Return the file of an id in `folder`."""
    return folder / f"{sample_id}{suffix}"


def looked_up(table: Mapping[str, Path], sample_id: str) -> Path:
    """Return the file of an id in `table`."""
    return table[sample_id]


def read_semseg(coding: Coding, path: Path, _: str) -> npt.NDArray[np.uint8]:
    """Return class ids (H, W) of an image, an .npy or a .mat file with `segmentation`. Raises UsageError."""
    return class_ids(path, read_plane(path, "segmentation"), coding, _CODINGS)


def read_depth(path: Path, _: str) -> npt.NDArray[np.float32]:
    """Return metres (H, W) of an .npy or a .mat file with `depth`. Raises UsageError."""
    return metres(path, read_plane(path, "depth"))


def read_normals(path: Path, _: str) -> npt.NDArray[np.float32]:
    """Return unit vectors (H, W, 3) of an .npy file, or of an image of 8 bits with x, y, z. Raises UsageError."""
    return array_normals(path) if path.suffix == ".npy" else coloured_normals(path, (0, 1, 2), (1, 1, 1))


def read_upright_normals(path: Path, _: str) -> npt.NDArray[np.float32]:
    """Return unit vectors (H, W, 3) of an image whose red is x, green is z, and blue is y upwards. Raises UsageError."""
    return coloured_normals(path, (0, 2, 1), (1, -1, 1))


def read_edge(path: Path, _: str) -> npt.NDArray[np.uint8]:
    """Return edges (H, W) of an image from 0 to 255, or of an .npy file from 0 to 1 with 255 for what is ignored.

    What is above half of the range is an edge. Raises UsageError.
    """
    raw = read_plane(path)
    if path.suffix == ".npy":
        ignored = raw == IGNORE
        if not ((raw >= 0) & (raw <= 1) | ignored).all():
            raise _wrong_edge(path, raw, "0 to 1, and 255 for what is ignored, as .npy")
        return np.where(ignored, IGNORE, raw > 0.5).astype(np.uint8)
    if raw.dtype == np.bool_:
        return raw.astype(np.uint8)
    if raw.dtype != np.uint8 or raw.max() == 1:
        raise _wrong_edge(path, raw, "0 to 255 as .png")
    return (raw > 127).astype(np.uint8)


def read_resampled_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) uint8 RGB of an .npy file of floats from 0 to 1. Raises UsageError."""
    # Resampling before the file was written may have gone a little beyond the range.
    return read_array_image(path, beyond=0.05)


def _wrong_edge(path: Path, raw: Array, rule: str) -> UsageError:
    return UsageError(
        f"{path} holds {raw.dtype} from {raw.min():g} to {raw.max():g}; edges of this variant go from {rule}: take the file "
        "of this variant"
    )

"""The label files of Taskonomy to arrays in the in-memory forms of `bmtas.tasks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.downloads.arrays import Coding, class_ids, read_plane
from bmtas.data.downloads.base import Source
from bmtas.data.downloads.files import read_sixteen_bit
from bmtas.data.labels import unit_normals
from bmtas.data.stored import described, read_raw
from bmtas.errors import UsageError
from bmtas.tasks import LOSS_WEIGHTS, Task, TaskKind

DOMAINS = ("rgb", "segment_semantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")
"""The folders that are used, images first."""

CLASSES = tuple(
    "background,bottle,chair,couch,potted plant,bed,dining table,toilet,tv,microwave,oven,toaster,sink,refrigerator,book,"
    "clock,vase".split(",")
)
"""The classes of the values 1 to 17; 0 is uncertain and does not count."""

_CODING = Coding("Taskonomy", first=1, count=len(CLASSES), ignored=0)
_STEPS_PER_M = 512
_NO_DEPTH = 64500  # from here on, the ray met nothing
_TOP = {"keypoints2d": 0.005, "edge_texture": 0.08}  # of 65536: what is above is cut off, as in AutoMTL

_TASKS = {
    "segment_semantic": Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=CLASSES),
    "normal": Task(name="normals", kind=TaskKind.NORMALS, loss_weight=LOSS_WEIGHTS[TaskKind.NORMALS]),
    "depth_zbuffer": Task(name="depth", kind=TaskKind.DEPTH),
    "keypoints2d": Task(name="keypoints", kind=TaskKind.REGRESSION),
    "edge_texture": Task(name="edges", kind=TaskKind.REGRESSION),
}


def sources(find: Callable[[str, str], Path | None], domains: Sequence[str]) -> tuple[Source, ...]:
    """Return the tasks of `domains`; `find` gives the file of a domain and an id, None where there is none."""
    readers: dict[str, Callable[[Path, str], npt.NDArray[np.generic]]] = {
        "segment_semantic": lambda path, _: class_ids(path, read_plane(path), _CODING),
        "normal": lambda path, sample_id: _normals(path, find("depth_zbuffer", sample_id)),
        "depth_zbuffer": lambda path, _: _depth(path),
        "keypoints2d": lambda path, _: _heat(path, _TOP["keypoints2d"]),
        "edge_texture": lambda path, _: _heat(path, _TOP["edge_texture"]),
    }
    return tuple(Source(_TASKS[d], partial(find, d), readers[d]) for d in domains)


def _depth(path: Path) -> npt.NDArray[np.float32]:
    """Return metres, (H, W), NaN where the ray met nothing or the file has 0."""
    raw = read_sixteen_bit(path)
    return np.where((raw > 0) & (raw < _NO_DEPTH), raw / _STEPS_PER_M, np.nan).astype(np.float32)


def _normals(path: Path, depth_path: Path | None) -> npt.NDArray[np.float32]:
    """Return unit vectors x right, y down, z forward, (H, W, 3); (0, 0, 0) where there is no depth, if the image has a file of it."""
    colours, mode = read_raw(path)
    if mode not in ("RGB", "RGBA"):
        raise UsageError(f"{path} holds {described(colours, mode)}; normals are an 8-bit RGB image: download it again")
    # 127 stands for 0. Blue points back to the camera.
    vectors = (colours[..., :3].astype(np.float32) - 127) / 127 * np.array([1, 1, -1], dtype=np.float32)
    valid = np.abs(vectors).max(axis=2) > 0.01  # 128 in all channels is no direction either
    if depth_path is not None:
        depth = _depth(depth_path)
        if depth.shape != valid.shape:
            raise UsageError(
                f"{path} is {valid.shape[0]} high and {valid.shape[1]} wide but {depth_path}, which tells where it is valid, "
                f"is {depth.shape[0]} high and {depth.shape[1]} wide; download them together"
            )
        valid &= ~np.isnan(depth)
    return unit_normals(vectors, valid)


def _heat(path: Path, top: float) -> npt.NDArray[np.float32]:
    """Return a heat map from -1 for 0 to 1 for `top` of the range of 16 bits and more, (H, W)."""
    share = np.clip(read_sixteen_bit(path) / 65536, 0, top)
    return (share / top * 2 - 1).astype(np.float32)

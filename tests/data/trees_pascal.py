"""PASCAL_MT in small: the folders, names and codes of the published archive, with four images of 12 x 16 pixels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from bmtas.data.downloads.base import Download
from bmtas.data.downloads.detect import open_download

Array = npt.NDArray[Any]

H, W = 12, 16
TRAIN = ("2008_000002", "2009_000010")
VAL = ("2008_000008", "2010_000003")
IDS = (*TRAIN, *VAL)

# Names as in NYU's and PASCAL-Context's own lists, with ids chosen here.
CONTEXT = {"aeroplane": 2, "bed": 18, "chair": 72, "sky": 360, "tvmonitor": 427, "wall": 440}
NYU = {"bed": 157, "chair": 5, "wall": 21, "zebra": 900}
WITH_NORMALS = (18, 72, 427, 440)


def save(path: Path, array: Array, **options: Any) -> None:
    """Write an array as .npy, or an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)


def save_mat(path: Path, **variables: Any) -> None:
    """Write variables as a .mat file of version 5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def snapshot(root: Path) -> dict[str, str]:
    """Return a hash of every file below `root`, and the names of the folders."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def block(rows: slice, columns: slice) -> Array:
    """Return a mask (H, W) that is 1 in a block."""
    mask = np.zeros((H, W), dtype=np.uint8)
    mask[rows, columns] = 1
    return mask


def records(names: str, rows: list[tuple[Any, ...]]) -> Array:
    """Return MATLAB's struct array (1, n) with the fields `names`, (0, 0) without rows."""
    kind = [(name, object) for name in names.split()]
    array = np.empty((1, len(rows)) if rows else (0, 0), dtype=kind)
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def thing(number: int, mask: Array, parts: list[tuple[str, Array]]) -> tuple[Any, ...]:
    """Return an object of `anno`: its class, number, mask and parts."""
    return ("person" if number == 15 else "thing", number, mask, records("part_name mask", list(parts)))


def anno(things: list[tuple[Any, ...]], sample_id: str = "x") -> Array:
    """Return what human_parts/*.mat holds as `anno`."""
    return records("imname objects", [(sample_id, records("class class_ind mask parts", things))])


def label_map() -> Array:
    """Return sky above a wall, with a bed, and a stripe of one pixel between sky and aeroplane."""
    label = np.full((H, W), 360, dtype=np.uint16)
    label[6:] = 440
    label[7:10, 3:8] = 18
    label[:6, 12:] = 2
    label[0, 0] = 0
    return label


def pascal(root: Path, *, db_info: bool = True) -> Path:
    """Write the tree below `root`; semseg of the second image of each split stands in pascal-context only."""
    rng = np.random.default_rng(7)
    (root / "ImageSets/Context").mkdir(parents=True)
    for split, ids in (("train", TRAIN), ("val", VAL)):
        (root / f"ImageSets/Context/{split}.txt").write_text("\n".join(ids) + "\n")
    for n, i in enumerate(IDS):
        save(root / f"JPEGImages/{i}.jpg", rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
        semseg = rng.integers(0, 21, (H, W), dtype=np.uint8)
        semseg[0, :3] = 255
        if n % 2 == 0:
            palette = Image.fromarray(semseg)
            palette.putpalette([v for colour in range(256) for v in (colour, 255 - colour, 0)])
            (root / "semseg/VOC12").mkdir(parents=True, exist_ok=True)
            palette.save(root / f"semseg/VOC12/{i}.png")
        save(
            root / f"semseg/pascal-context/{i}.png",
            np.where(semseg == 255, 0, 20 - np.minimum(semseg, 20)).astype("u1"),
        )
        save(root / f"sal_distill/{i}.png", rng.integers(0, 256, (H, W), dtype=np.uint8))
        save(root / f"normals_distill/{i}.png", rng.integers(1, 255, (H, W, 3), dtype=np.uint8))
        save_mat(root / f"pascal-context/trainval/{i}.mat", LabelMap=label_map())
        save_mat(root / f"human_parts/{i}.mat", anno=anno([thing(2, block(slice(0, 2), slice(0, 2)), [])], i))
    if db_info:
        (root / "db_info").mkdir()
        (root / "db_info/nyu_classes.json").write_text(json.dumps(NYU))
        (root / "db_info/context_classes.json").write_text(json.dumps(CONTEXT))
    return root


def opened(root: Path) -> Download:
    """Return the data set in a folder."""
    dataset = open_download(root)
    assert dataset is not None
    return dataset


def load(root: Path, task: str, split: str = "train", index: int = 0) -> Array:
    """Return a label in the part of the frame of 512 x 512 in which the image lies."""
    return np.asarray(opened(root).load(split, index, size=(512, 512), tasks=[task]).labels[task])[:H, :W]


def pixels(path: Path) -> Array:
    """Return an image as it is stored."""
    with Image.open(path) as picture:
        return np.array(picture)

"""NYUD-v2 in small or of given content, written in each of the five forms in which it circulates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.data.trees_pascal import opened, save, save_mat

Array = npt.NDArray[Any]

H, W = 12, 16
TRAIN = ("0001", "0002")
VAL = ("0003", "0010")


@dataclass(frozen=True)
class Content:
    """What is known of an image: labels in the in-memory forms of `bmtas.tasks`."""

    image: Array
    semseg: Array
    depth: Array
    normals: Array
    edge: Array


Contents = Mapping[str, Content]


def small(classes: int = 40) -> dict[str, Content]:
    """Return four images of 12 x 16 with every class, and with pixels without each label."""
    rng = np.random.default_rng(3)
    contents = {}
    for n, i in enumerate((*TRAIN, *VAL)):
        semseg = (np.arange(H * W).reshape(H, W) % classes).astype(np.uint8)
        semseg[0, :5] = 255
        depth = rng.uniform(0.7, 9.9, (H, W)).astype(np.float32)
        depth[1, 2:4] = np.nan
        normals = np.zeros((H, W, 3), dtype=np.float32)
        # Constant where JPEG has its blocks of 8 x 8; the fourth block has no normals.
        normals[:8, :8], normals[:8, 8:], normals[8:, :8] = (0.6, 0.0, -0.8), (0.0, -0.8, -0.6), (-0.48, 0.64, -0.6)
        edge = (rng.random((H, W)) < 0.2).astype(np.uint8)
        image = np.full((H, W, 3), 40 * n + 20, dtype=np.uint8)
        image[:, 8:] += 60
        contents[i] = Content(image, semseg, depth, normals, edge)
    return contents


def colours(normals: Array, none: int = 255) -> Array:
    """Return normals as colours of 8 bits, `none` in all channels where there is none."""
    coded = np.rint((normals + 1) * 127.5)
    return np.where((normals == 0).all(axis=2, keepdims=True), none, coded).astype(np.uint8)


def _lists(folder: Path, train: Sequence[str], val: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    for name, ids in (("train", train), ("val", val)):
        (folder / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def astmt(root: Path, contents: Contents, train: Sequence[str] = TRAIN, val: Sequence[str] = VAL) -> Path:
    """Write the variant of NYUD_MT.tgz: .mat, .jpg and .png."""
    _lists(root / "gt_sets", train, val)
    for i, c in contents.items():
        save(root / f"images/{i}.jpg", c.image, quality=95)
        save_mat(
            root / f"segmentation/{i}.mat", segmentation=np.where(c.semseg == 255, 0, c.semseg + 1).astype(np.uint8)
        )
        save_mat(root / f"depth/{i}.mat", depth=np.nan_to_num(c.depth))
        save(root / f"normals/{i}.jpg", colours(c.normals, 127), quality=100, subsampling=0)
        save(root / f"edge/{i}.png", np.where(c.edge == 1, 255, 0).astype(np.uint8))
    return root


def mtl_pytorch(root: Path, contents: Contents, train: Sequence[str] = TRAIN, val: Sequence[str] = VAL) -> Path:
    """Write the variant of MTL-PyTorch: .png and .npy."""
    _lists(root / "gt_sets", train, val)
    for i, c in contents.items():
        save(root / f"images/{i}.jpg", c.image, quality=95)
        save(root / f"segmentation/{i}.png", np.where(c.semseg == 255, 0, c.semseg + 1).astype(np.uint8))
        save(root / f"depth/{i}.npy", np.nan_to_num(c.depth))
        save(root / f"normals/{i}.npy", c.normals)
        save(root / f"edge/{i}.npy", c.edge.astype(np.float32))
    return root


def adashare(
    root: Path,
    contents: Contents,
    train: Sequence[str] = TRAIN,
    val: Sequence[str] = VAL,
    *,
    coded: Mapping[str, Array] | None = None,
    form: type = dict,
) -> Path:
    """Write the variant of AdaShare: an index, .png and .npy. `coded`: the colours of the normals as they are."""
    for i, c in contents.items():
        save(root / f"image/{i}.png", c.image)
        save(root / f"seg/{i}.png", c.semseg)
        save(root / f"depth/{i}.npy", np.nan_to_num(c.depth))
        right, down, forward = np.moveaxis(c.normals, 2, 0)
        upright = np.stack([right, forward, -down], axis=2)
        save(root / f"normal/{i}.png", colours(upright) if coded is None else coded[i])

    def row(i: str) -> dict[str, str] | list[str]:
        paths = {"img": f"image/{i}.png", "seg": f"seg/{i}.png", "normal": f"normal/{i}.png", "depth": f"depth/{i}.npy"}
        return paths if form is dict else list(paths.values())

    rows = {"train": [row(i) for i in train], "test": [row(i) for i in val]}
    (root / "nyu_v2_3task.json").write_text(json.dumps(rows))
    return root


def mtan(root: Path, contents: Contents) -> Path:
    """Write the variant of MTAN: arrays numbered from 0 in each split, 12 for training (numbers of two digits)."""
    for split, ids in (("train", [*TRAIN] * 6), ("val", [*VAL])):
        for n, i in enumerate(ids):
            c = contents[i]
            save(root / f"{split}/image/{n}.npy", (c.image / 255).astype(np.float32))
            save(root / f"{split}/label/{n}.npy", np.where(c.semseg == 255, -1, c.semseg.astype(np.float32)))
            save(root / f"{split}/depth/{n}.npy", np.nan_to_num(c.depth)[:, :, None])
            save(root / f"{split}/normal/{n}.npy", c.normals)
    return root


def nddr(root: Path, contents: Contents) -> Path:
    """Write the variant of NDDR-CNN: lists of pairs, .png."""
    (root / "list").mkdir(parents=True)
    for part, ids in (("training", TRAIN), ("testing", VAL)):
        for kind in ("seg", "normal_mask"):
            lines = [f"/image/{part}/{i}.png /{kind}/{part}/{i}.png\n" for i in ids]
            (root / f"list/{part}_{kind}.txt").write_text("".join(lines))
        for i in ids:
            save(root / f"image/{part}/{i}.png", contents[i].image)
            save(root / f"seg/{part}/{i}.png", contents[i].semseg)
            save(root / f"normal_mask/{part}/{i}.png", colours(contents[i].normals))
    return root


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "ASTMT": lambda root: astmt(root, small()),
    "MTL-PyTorch": lambda root: mtl_pytorch(root, small()),
    "AdaShare": lambda root: adashare(root, small()),
    "MTAN": lambda root: mtan(root, small(13)),
    "NDDR-CNN": lambda root: nddr(root, small()),
}
HAS = {
    "ASTMT": ["semseg", "depth", "normals", "edge"],
    "MTL-PyTorch": ["semseg", "depth", "normals", "edge"],
    "AdaShare": ["semseg", "depth", "normals"],
    "MTAN": ["semseg", "depth", "normals"],
    "NDDR-CNN": ["semseg", "normals"],
}


def load(root: Path, task: str, split: str = "train", index: int = 0) -> Array:
    """Return a label of an image at the size of the data set."""
    dataset = opened(root)
    return np.asarray(dataset.load(split, index, size=dataset.size, tasks=[task]).labels[task])

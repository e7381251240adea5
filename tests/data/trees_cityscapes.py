"""Small trees of Cityscapes in exactly its formats, the values chosen by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

H, W = 8, 16
CITIES = {"train": {"aachen": 2, "zurich": 1}, "val": {"munster": 1}}


def save(path: Path, array: npt.NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def write_raw(root: Path, *, disparity: bool = True) -> Path:
    """Every label id from 0 to 33 in the first rows; disparity 0, 1, 257, 32257 in the first pixels."""
    ids = np.full((H, W), 7, dtype=np.uint8)
    ids.flat[:34] = range(34)
    far = np.full((H, W), 2561, dtype=np.uint16)
    far[0, :4] = (0, 1, 257, 32257)
    for split, cities in CITIES.items():
        for city, count in cities.items():
            for number in range(count):
                stem = f"{city}_{number:06d}_000019"
                image = np.full((H, W, 3), (10 + number, 20, 30), dtype=np.uint8)
                save(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", image)
                save(root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", ids)
                save(root / f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", ids.astype(np.uint16))
                if disparity:
                    save(root / f"disparity/{split}/{city}/{stem}_disparity.png", far)
    return root


def npy_arrays(largest: int) -> dict[str, npt.NDArray[Any]]:
    """Image, label with ids up to `largest` and one ignored pixel, and inverse depth with both marks of no measure."""
    image = np.full((H, W, 3), (0.0, 0.5, 1.0))
    label = np.zeros((H, W))
    label[0, :3] = (-1, 1, largest)
    depth = np.full((H, W, 1), 0.25, dtype=np.float32)
    depth[0, :3, 0] = (0, -1, 0.49)
    return {"image": image, "label": label, "depth": depth}


def write_npy(root: Path, *sets: int, name: str = "label_{}") -> Path:
    """Numbered files 0, 2, 10 in train and 0 in val, with a folder of labels for each number of classes in `sets`."""
    for split, numbers in {"train": (0, 2, 10), "val": (0,)}.items():
        for number in numbers:
            for count in sets:
                arrays = npy_arrays(count - 1)
                save(root / split / name.format(count) / f"{number}.npy", arrays["label"])
            save(root / split / "image" / f"{number}.npy", arrays["image"])
            save(root / split / "depth" / f"{number}.npy", arrays["depth"])
    return root


def write_index(root: Path, *, objects: bool = False) -> Path:
    """AdaShare's form: files in folders, rows of image, depth and the three labels."""
    write_npy(root, 2, 7, 19)

    def row(split: str, number: int) -> Any:
        paths = [f"/{split}/{c}/{number}.npy" for c in ("image", "depth", "label_2", "label_7", "label_19")]
        return dict(zip(("img", "depth", "label2", "label7", "label19"), paths, strict=True)) if objects else paths

    content = {
        "train": [row("train", n) for n in (0, 2, 10)],
        "train1": [row("train", 0)],
        "train2": [row("train", 2), row("train", 10)],
        "test": [row("val", 0)],
    }
    (root / "cityscape.json").write_text(json.dumps(content), encoding="utf-8")
    return root

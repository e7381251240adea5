"""Small trees of Omniglot in exactly its format: 105x105 pixels of one bit, 20 drawings of each character."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 105
ALPHABETS = {
    "images_background": {"Greek": 3, "Japanese_(katakana)": 2, "Anglo-Saxon_Futhorc": 2},
    "images_evaluation": {"Malayalam": 2},
}


def drawing(row: int) -> np.ndarray:
    """Paper (1) with one row of ink (0)."""
    array = np.ones((SIDE, SIDE), dtype=bool)
    array[row] = False
    return array


def write_omniglot(root: Path, parts: tuple[str, ...] = tuple(ALPHABETS), drawings: int = 20) -> Path:
    number = 0
    for part in parts:
        for alphabet, characters in ALPHABETS[part].items():
            for character in range(characters):
                number += 1
                folder = root / part / alphabet / f"character{character + 1:02d}"
                folder.mkdir(parents=True)
                for drawer in range(drawings):
                    picture = Image.fromarray(drawing(10 * character + drawer))
                    picture.save(folder / f"{number:04d}_{drawer + 1:02d}.png")
    return root


def write_packed(root: Path) -> Path:
    """Two alphabets of two characters with 4 drawings each: 2 for training, one for validation, one for test."""
    root.mkdir(parents=True, exist_ok=True)
    for alphabet in ("Greek", "Japanese_(katakana)"):
        ink = np.stack([~drawing(row) for row in range(8)]).reshape(8, -1)
        fields = {
            "images_packed": np.packbits(ink, axis=1),
            "label": np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=np.uint8),
            "drawer": np.array([1, 2, 3, 4] * 2, dtype=np.uint8),
            "split": np.array([0, 0, 1, 2] * 2, dtype=np.uint8),
        }
        np.savez_compressed(root / f"{alphabet}.npz", **fields)
    return root

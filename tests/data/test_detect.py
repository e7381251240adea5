"""Which data set a folder holds: one, none, or two at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bmtas.data.downloads.detect import EXPECTED, open_download
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError


def drawings(root: Path) -> None:
    """Write two alphabets of two characters with 20 drawings each, as Omniglot has them."""
    for alphabet in ("Greek", "Latin"):
        for character in ("character01", "character02"):
            folder = root / "images_background" / alphabet / character
            folder.mkdir(parents=True)
            for drawing in range(20):
                Image.fromarray(np.full((105, 105), 255, np.uint8)).convert("1").save(
                    folder / f"0001_{drawing:02d}.png"
                )


def mtan(root: Path) -> None:
    """Write one image per split as MTAN has NYUD-v2, but smaller."""
    for split in ("train", "val"):
        for name, array in {
            "image": np.zeros((8, 12, 3), np.float32),
            "label": np.zeros((8, 12), np.float32),
            "depth": np.ones((8, 12, 1), np.float32),
            "normal": np.ones((8, 12, 3), np.float32),
        }.items():
            (root / split / name).mkdir(parents=True)
            np.save(root / split / name / "0.npy", array)


def test_an_empty_folder_is_none_of_them_and_the_message_lists_all(tmp_path: Path) -> None:
    assert open_download(tmp_path) is None
    with pytest.raises(UsageError, match="none of the data sets that are known by their files") as caught:
        open_dataset(str(tmp_path))
    assert EXPECTED in str(caught.value)


def test_a_folder_with_two_data_sets_is_refused(tmp_path: Path) -> None:
    drawings(tmp_path)
    assert open_dataset(str(tmp_path)).name == "omniglot"
    mtan(tmp_path)
    with pytest.raises(UsageError, match=r"nyud-v2-13 .* and omniglot .*a folder of its own"):
        open_dataset(str(tmp_path))

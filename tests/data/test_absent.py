"""Classes that no label holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bmtas.data.report import inspect
from bmtas.data.source import open_dataset


def test_classes_that_no_label_holds_are_told(tmp_path: Path) -> None:
    for folder in ("images", "semseg"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / f"images/{i}.png")
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / f"semseg/{i}.png")
    (tmp_path / "kind.csv").write_text("id,label\n" + "".join(f"{i},{'b' if i % 2 else 'a'}\n" for i in range(6)))
    for name, ids in (("train", "012"), ("val", "345")):
        (tmp_path / f"{name}.txt").write_text("\n".join(ids) + "\n")
    manifest = (
        "images: {folder: images}\n"
        "tasks:\n"
        "  semseg: {kind: segmentation, folder: semseg, classes: [road, car, bike]}\n"
        "  kind: {kind: classification, file: kind.csv, classes: [a, b, c]}\n"
        "splits: {train: train.txt, val: val.txt}\n"
    )
    (tmp_path / "manifest.yaml").write_text(manifest)
    found = inspect(open_dataset(str(tmp_path)))
    assert found.ok
    assert found.remarks == (
        "semseg: no pixel of the 6 labels read is of class 2 (bike)",
        "kind: none of the 6 labels read is of class 2 (c)",
    )
    # Four labels of one class each are too few to miss one of three.
    assert inspect(open_dataset(str(tmp_path)), per_split=2).remarks == (
        "semseg: no pixel of the 4 labels read is of class 2 (bike); --all reads every image",
    )

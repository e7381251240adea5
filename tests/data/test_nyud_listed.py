"""The index of AdaShare in the forms that its rows may have, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bmtas.data.downloads.detect import open_download
from bmtas.errors import UsageError
from tests.data.trees_nyud import (
    adashare,
    small,
)
from tests.data.trees_pascal import opened


def test_rows_of_the_index_have_several_forms(tmp_path: Path) -> None:
    root = adashare(tmp_path / "nyu_v2", small())
    index = root / "nyu_v2_3task.json"
    rows = json.loads(index.read_text())
    first = opened(root)

    def same_as_first(content: Any) -> None:
        index.write_text(json.dumps(content))
        assert opened(root).fingerprint() == first.fingerprint()

    lists = {split: [list(row.values()) for row in listed] for split, listed in rows.items()}
    same_as_first(lists)
    renamed = {"img": "image", "seg": "label", "normal": "normals", "depth": "depth"}
    same_as_first({s: [{renamed[k]: f"/{p}" for k, p in row.items()} for row in listed] for s, listed in rows.items()})
    same_as_first({"train": rows["train"], "val": rows["test"]})
    same_as_first({**rows, "train1": rows["train"][:1], "train2": rows["train"][1:]})
    same_as_first({"train1": rows["train"][:1], "train2": rows["train"][1:], "test": rows["test"]})
    # Paths that begin with the name of the index's folder.
    index.write_text(json.dumps({s: [[f"nyu_v2/{p}" for p in row] for row in listed] for s, listed in lists.items()}))
    assert opened(root).missing() == []
    index.write_text(json.dumps({"train": rows["train"], "val": rows["test"][:1], "test": rows["test"][1:]}))
    assert opened(root).splits == ("train", "val", "test")


def test_a_path_beside_the_folder_of_the_index_is_refused(tmp_path: Path) -> None:
    root = adashare(tmp_path / "nyu_v2", small(), form=list)
    index = root / "nyu_v2_3task.json"
    rows = {s: [[f"nyu_v2/{p}" for p in row] for row in listed] for s, listed in json.loads(index.read_text()).items()}
    rows["train"][1][1] = "elsewhere/seg.png"
    index.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=r"'elsewhere/seg\.png' leads out of the data set's folder"):
        open_download(root)


ROW = ["image/0001.png", "seg/0001.png", "normal/0001.png", "depth/0001.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"no list of rows for the split 'train' \(its keys: none\)"),
        ({"train": [ROW]}, r"no list of rows for the split 'val' \(its keys: 'train'\)"),
        ({"train": [], "test": [ROW]}, "no list of rows for the split 'train'"),
        ({"train": {"a": 1}, "test": [ROW]}, "no list of rows for the split 'train'"),
        (
            {"train": [ROW], "test": ["x"]},
            "row 1 of 'test', 'x', does not name one file each for img, seg, normal, depth, as an object or as a list",
        ),
        ({"train": [ROW[:3]], "test": [ROW]}, "does not name one file each"),
        (
            {"train": [ROW[::-1]], "test": [ROW]},
            r"gives 'depth/0001\.npy' as 'img', in this variant a path that ends in \.png or \.jpg",
        ),
        (
            {"train": [{"img": "a.png", "seg": "b.png", "depth": "c.npy"}], "test": [ROW]},
            "does not name one file each for img, seg, normal",
        ),
        (
            {"train": [[ROW[0], ROW[1], ROW[2], "depth/0001.png"]], "test": [ROW]},
            r"as 'depth', in this variant a path that ends in \.npy",
        ),
        ({"train": [["../a.png", *ROW[1:]]], "test": [ROW]}, "leads out of the data set's folder"),
        ({"train": [["", *ROW[1:]]], "test": [ROW]}, "the path '' names no file"),
        ({"train": [ROW, ROW], "test": [ROW]}, "'image/0001' stands 2 times"),
        ({"train": [ROW], "test": [ROW]}, "is in the splits 'train' and 'val'"),
    ],
)
def test_other_indices_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    root = adashare(tmp_path, small())
    (root / "nyu_v2_3task.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        open_download(root)

"""Taskonomy by buildings and by AutoMTL's index: every value decoded as its facts say, what is missing or wrong is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bmtas.data.downloads.base import Download
from bmtas.errors import UsageError
from bmtas.tasks import TaskKind
from tests.data.downloaded import opened, refused, state
from tests.data.mirror import mirrored
from tests.data.trees_taskonomy import BUILDINGS, ENDINGS, VIEWS, H, W, labels, save, write_taskonomy

NAMES = ["semseg", "normals", "depth", "keypoints", "edges"]
CSV = "id,train,val,test\nAllensville,1,0,0\nBeechwood,0,1,0\nCoffeen,0,0,1\nDarden,1,0,0\nElsewhere,1,0,0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_taskonomy(tmp_path / "data")


def buildings(dataset: Download) -> dict[str, set[str]]:
    return {split: {i.split("/")[0] for i in dataset.ids(split)} for split in dataset.splits}


def test_what_is_there(root: Path) -> None:
    before = state(root)
    dataset = opened(root)
    assert (dataset.name, dataset.size) == ("taskonomy", (H, W))  # that of the files: 512x512, or 256x256
    assert [task.name for task in dataset.tasks] == NAMES
    assert [task.kind for task in dataset.tasks] == [
        TaskKind.SEGMENTATION,
        TaskKind.NORMALS,
        TaskKind.DEPTH,
        TaskKind.REGRESSION,
        TaskKind.REGRESSION,
    ]
    first = dataset.ids("train")[0].split("/")[0]
    assert dataset.ids("train")[: len(VIEWS)] == tuple(f"{first}/{view}" for view in VIEWS)  # 2 before 10
    assert dataset.missing() == []
    assert {name: dataset.label_count(name) for name in NAMES} == dict.fromkeys(NAMES, 12)
    index = dataset.ids("val").index(f"{next(iter(buildings(dataset)['val']))}/point_2_view_1")
    sample = dataset.load("val", index, size=(H, W), tasks=NAMES)
    assert (sample.image == 40 * BUILDINGS.index(sample.id.split("/")[0]) + 1).all()
    assert len(dataset.fingerprint()) == 64
    assert state(root) == before


def test_every_value(root: Path) -> None:
    dataset = opened(root)
    found = dataset.load("train", 0, size=(H, W), tasks=NAMES).labels
    classes = dataset.tasks[0].classes
    assert (len(classes), classes[0], classes[1], classes[16]) == (17, "background", "bottle", "vase")
    assert found["semseg"][0, :4].tolist() == [255, 0, 1, 16]
    depth = found["depth"]
    assert depth.dtype == np.float32
    assert depth[0, :2].tolist() == [1.0, np.float32(64499 / 512)]
    assert np.isnan(depth[0, 2:5]).all()  # 64500, 65535, 0
    assert depth[1, 1] == 2.0
    normals = found["normals"]
    assert normals.dtype == np.float32
    assert normals[5, 5].tolist() == [0, 0, -1]  # blue 254 faces the camera, z points away from it
    assert normals[1, :5].tolist() == [[1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0], [0, 0, 0]]
    assert (normals[0, 2:5] == 0).all()  # no depth
    assert (normals[0, :2] == (0, 0, -1)).all()
    lengths = np.linalg.norm(normals, axis=2)
    assert np.all((lengths == 0) | (np.abs(lengths - 1) < 1e-6))
    # 164 / 65536 = 0.00250244140625 of 0.005, which is spread over -1 to 1; 2048 / 65536 = 1/32 of 0.08
    assert found["keypoints"][0, :3].tolist() == pytest.approx([-1, 0.0009765625, 1])
    assert found["edges"][0, :3].tolist() == pytest.approx([-1, -0.21875, 1])


def test_mirroring(root: Path) -> None:
    dataset = opened(root)
    sample = dataset.load("train", 0, size=(H, W), tasks=NAMES)
    once = mirrored(sample, dataset.tasks)
    twice = mirrored(once, dataset.tasks)
    for name, label in sample.labels.items():
        assert np.array_equal(twice.labels[name].astype(float), label.astype(float), equal_nan=True)
    assert np.array_equal(once.labels["depth"], sample.labels["depth"][:, ::-1], equal_nan=True)
    assert np.array_equal(once.labels["normals"], sample.labels["normals"][:, ::-1] * np.array([-1, 1, 1]))
    assert once.labels["normals"][1, W - 1].tolist() == [-1, 0, 0]


def test_without_a_list_buildings_are_ranked_by_their_names(root: Path) -> None:
    # Without code: printf %s Coffeen | sha256sum, and so on.
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in BUILDINGS}
    ranked = sorted(BUILDINGS, key=lambda name: digests[name])
    dataset = opened(root)
    assert buildings(dataset) == {"train": set(ranked[2:]), "val": {ranked[0]}, "test": {ranked[1]}}
    assert "ranked by the SHA-256 of their names" in dataset.layout.remarks[0]
    shutil.rmtree(root / BUILDINGS[0])
    shutil.rmtree(root / BUILDINGS[1])
    assert {split: len(names) for split, names in buildings(opened(root)).items()} == {"train": 1, "val": 1}
    shutil.rmtree(root / BUILDINGS[2])
    assert "holds the building 'Darden' alone" in refused(root)


@pytest.mark.parametrize("place", ["", "splits", "splits_taskonomy"])
def test_the_official_list_divides_the_buildings(root: Path, place: str) -> None:
    (root / place).mkdir(exist_ok=True)
    (root / place / "train_val_test_tiny.csv").write_text(CSV, encoding="utf-8")
    (root / place / "notes.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    dataset = opened(root)
    assert buildings(dataset) == {"train": {"Allensville", "Darden"}, "val": {"Beechwood"}, "test": {"Coffeen"}}
    assert dataset.layout.remarks[0] == "split by train_val_test_tiny.csv: 4 of its 5 buildings are here"


def test_the_smallest_list_that_knows_the_buildings_is_taken(root: Path) -> None:
    (root / "train_val_test_tiny.csv").write_text(CSV.replace("Darden", "Otherwise"), encoding="utf-8")
    dataset = opened(root)
    assert buildings(dataset)["train"] == {"Allensville"}
    assert "1 buildings that it does not name are left out" in dataset.layout.remarks[0]
    (root / "train_val_test_full.csv").write_text(CSV + "Farther,1,0,0\n", encoding="utf-8")
    (root / "train_val_test_medium.csv").write_text(CSV + "Unused,0,0,0\n", encoding="utf-8")
    dataset = opened(root)
    assert dataset.layout.remarks[0].startswith("split by train_val_test_medium.csv: 4 of its 5 buildings")
    assert buildings(dataset)["train"] == {"Allensville", "Darden"}
    (root / "train_val_test_tiny.csv").write_text(CSV.replace("Coffeen,0,0,1", "Coffeen,1,0,1"), encoding="utf-8")
    assert "tiny.csv:4: the building 'Coffeen' is in train and test" in refused(root)


def test_an_image_may_lack_a_domain(root: Path) -> None:
    (root / "train_val_test_tiny.csv").write_text(CSV, encoding="utf-8")
    (root / f"Allensville/normal/{VIEWS[0]}_domain_normal.png").unlink()
    (root / f"Allensville/depth_zbuffer/{VIEWS[1]}_domain_depth_zbuffer.png").unlink()
    shutil.rmtree(root / "Darden/edge_texture")
    dataset = opened(root)
    assert dataset.missing() == []
    assert [dataset.label_count(name) for name in NAMES] == [12, 11, 11, 12, 9]
    train = dataset.ids("train")
    first = dataset.load("train", 0, size=(H, W), tasks=NAMES)
    assert (first.id, sorted(set(NAMES) - set(first.labels))) == (f"Allensville/{VIEWS[0]}", ["normals"])
    second = dataset.load("train", 1, size=(H, W), tasks=["normals", "depth"]).labels
    assert list(second) == ["normals"]
    assert second["normals"][0, 2].tolist() == [0, 0, -1]  # nothing says that there is no depth
    darden = dataset.load("train", train.index(f"Darden/{VIEWS[0]}"), size=(H, W), tasks=["edges"])
    assert darden.labels == {}
    for name in BUILDINGS:
        shutil.rmtree(root / name / "keypoints2d")
    dataset = opened(root)
    assert [task.name for task in dataset.tasks] == ["semseg", "normals", "depth", "edges"]
    assert "no building holds keypoints2d, so these tasks are missing" in dataset.layout.remarks


def test_a_label_that_is_lost_while_the_data_are_open_is_missed(root: Path) -> None:
    """An image without a label is no fault; one that has lost it is."""
    (root / "train_val_test_tiny.csv").write_text(CSV, encoding="utf-8")
    (root / f"Allensville/normal/{VIEWS[0]}_domain_normal.png").unlink()
    dataset = opened(root)
    edges = root / f"Allensville/edge_texture/{VIEWS[0]}_domain_edge_texture.png"
    depth = root / f"Allensville/depth_zbuffer/{VIEWS[1]}_domain_depth_zbuffer.png"
    edges.unlink()
    depth.unlink()
    with pytest.raises(UsageError, match=re.escape(str(edges))):
        dataset.load("train", 0, size=(H, W), tasks=["normals", "edges"])
    with pytest.raises(UsageError, match=re.escape(str(depth))):
        dataset.load("train", 1, size=(H, W), tasks=["normals"])  # nor are normals read without it all of a sudden
    assert dataset.missing() == [depth, edges] or dataset.missing() == [edges, depth]
    assert opened(root).missing() == []  # opened anew, it has none
    assert dataset.labelled("train", ["normals"]) == [1, 2, 3, 4, 5]


def test_half_a_download_is_refused(root: Path) -> None:
    shutil.rmtree(root / "Coffeen/rgb")
    assert "Coffeen holds segment_semantic, normal" in refused(root)
    assert "but no rgb/ with images (1 such buildings)" in refused(root)
    shutil.rmtree(root / "Coffeen")
    for name in BUILDINGS:
        for domain in labels():
            shutil.rmtree(root / name / domain, ignore_errors=True)
    assert "but no labels beside rgb/; unpack at least one of segment_semantic, normal" in refused(root)


def test_it_is_found_from_above_and_from_inside(root: Path) -> None:
    ids = opened(root).ids("train")
    for place in (root.parent, root / "Coffeen"):
        dataset = opened(place)
        assert (dataset.layout.root, dataset.ids("train")) == (root, ids)
    plain = root.parent / "plain"
    save(plain / "kitchen/rgb/one.png", np.zeros((H, W, 3), dtype=np.uint8))  # a folder called rgb is not enough
    assert "none of the data sets that are known" in refused(plain)


def test_wrong_files_are_named(root: Path) -> None:
    dataset = opened(root)
    building = dataset.ids("train")[0].split("/")[0]

    def message(task: str, domain: str, array: np.ndarray) -> str:
        path = root / building / domain / f"{VIEWS[0]}_domain_{ENDINGS.get(domain, domain)}.png"
        kept = path.read_bytes()
        save(path, array)
        with pytest.raises(UsageError) as caught:
            dataset.load("train", 0, size=(H, W), tasks=[task])
        path.write_bytes(kept)
        assert str(path) in str(caught.value)
        return str(caught.value)

    told = message("semseg", "segment_semantic", np.full((H, W), 18, dtype=np.uint8))
    assert f"value 18 ({H * W} pixels hold it" in told
    assert "1 to 17 and 0 for what is ignored (Taskonomy)" in told
    assert "a single channel of numbers" in message("semseg", "segment_semantic", np.zeros((H, W, 3), dtype=np.uint8))
    assert "16 bits belongs here" in message("depth", "depth_zbuffer", np.zeros((H, W), dtype=np.uint8))
    assert "16 bits belongs here" in message("edges", "edge_texture", np.zeros((H, W), dtype=np.uint8))
    assert "normals are an 8-bit RGB image" in message("normals", "normal", np.zeros((H, W), dtype=np.uint8))
    told = message("normals", "depth_zbuffer", np.ones((H, W + 1), dtype=np.uint16))
    assert "which tells where it is valid, is 12 high and 17 wide" in told
    assert "but its image" in message("keypoints", "keypoints2d", np.ones((H + 1, W), dtype=np.uint16))


@pytest.fixture
def indexed(root: Path) -> Path:
    """AutoMTL's form: the same files, and rows of img, seg, normal, depth, keypoint, edge."""
    domains = ("rgb", *labels())

    def row(building: str, view: str) -> list[str]:
        return [f"/{building}/{d}/{view}_domain_{ENDINGS.get(d, d)}.png" for d in domains]

    content = {"train": [row("Allensville", v) for v in VIEWS], "test": [row("Darden", VIEWS[0])]}
    (root / "taskonomy.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_the_index(indexed: Path) -> None:
    before = state(indexed)
    dataset = opened(indexed)
    assert [task.name for task in dataset.tasks] == NAMES
    assert dataset.ids("train") == tuple(f"Allensville/rgb/{view}_domain_rgb" for view in VIEWS)
    assert dataset.ids("val") == (f"Darden/rgb/{VIEWS[0]}_domain_rgb",)
    assert "val is what the index calls test" in dataset.layout.remarks
    assert any("AutoMTL trains them as background" in remark for remark in dataset.layout.remarks)
    sample = dataset.load("val", 0, size=(H, W), tasks=NAMES)
    assert (sample.image == 120).all()
    assert sample.labels["semseg"][0, :4].tolist() == [255, 0, 1, 16]
    assert (sample.labels["normals"][0, 2:5] == 0).all()
    assert sample.labels["depth"][1, 1] == 2.0  # metres, whatever AutoMTL makes of them
    assert state(indexed) == before
    gone = indexed / f"Darden/normal/{VIEWS[0]}_domain_normal.png"
    gone.unlink()
    assert dataset.missing() == [gone]  # what the index names must be there


def test_normals_ask_for_the_depth_that_the_index_names(indexed: Path) -> None:
    depth = indexed / f"Allensville/depth_zbuffer/{VIEWS[0]}_domain_depth_zbuffer.png"
    depth.unlink()
    with pytest.raises(UsageError, match=re.escape(str(depth))):
        opened(indexed).load("train", 0, size=(H, W), tasks=["normals"])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../../elsewhere.png", "the path '../../elsewhere.png' leads out of the data set's folder"),
        ("/Allensville/../../elsewhere.png", "leads out of the data set's folder"),
        ("/", "the path '/' names no file"),
        (f"Allensville/rgb/{VIEWS[1]}_domain_rgb.png", "stands 2 times"),
    ],
)
def test_paths_of_the_index_are_checked(indexed: Path, path: str, told: str) -> None:
    content = json.loads((indexed / "taskonomy.json").read_text())
    content["train"][0][0] = path
    (indexed / "taskonomy.json").write_text(json.dumps(content))
    assert told in refused(indexed)


def test_rows_of_the_index_may_be_objects(indexed: Path) -> None:
    content = json.loads((indexed / "taskonomy.json").read_text())
    keys = ("img", "seg", "normal", "depth", "keypoint", "edge")
    content = {split: [dict(zip(keys, row, strict=True)) for row in rows] for split, rows in content.items()}
    content["val"] = content["train"][:1]
    del content["train"][0]
    (indexed / "taskonomy.json").write_text(json.dumps(content))
    dataset = opened(indexed)
    assert dataset.splits == ("train", "val", "test")
    assert dataset.load("test", 0, size=(H, W), tasks=["edges"]).labels["edges"][0, 1] == -0.21875
    del content["train"][0]["edge"]
    (indexed / "taskonomy.json").write_text(json.dumps(content))
    assert "row 1 of 'train', {" in refused(indexed)
    assert "does not name one file each for rgb, segment_semantic" in refused(indexed)

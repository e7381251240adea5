"""The labels of PASCAL-Context: every code by hand or by another library, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import laplace
from skimage.morphology import thin

from bmtas.data.downloads.pascal_context import detect
from bmtas.errors import UsageError
from tests.data.trees_pascal import (
    CONTEXT,
    NYU,
    TRAIN,
    WITH_NORMALS,
    H,
    W,
    anno,
    block,
    label_map,
    load,
    opened,
    pascal,
    pixels,
    records,
    save,
    save_mat,
    thing,
)

Array = npt.NDArray[Any]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return pascal(tmp_path / "PASCAL_MT")


def test_semseg_is_read_from_voc_where_it_is_there(tree: Path) -> None:
    first, second = load(tree, "semseg"), load(tree, "semseg", index=1)
    with Image.open(tree / f"semseg/VOC12/{TRAIN[0]}.png") as picture:
        assert picture.mode == "P"  # indices, not colours
        assert np.array_equal(first, np.array(picture))
    assert first.dtype == np.uint8
    assert (first[0, :3] == 255).all()
    assert not (tree / f"semseg/VOC12/{TRAIN[1]}.png").exists()
    assert np.array_equal(second, pixels(tree / f"semseg/pascal-context/{TRAIN[1]}.png"))
    for value, words in [
        (21, "59 classes of PASCAL-Context"),
        (59, "59 classes"),
        (254, "value 254"),
        (60, "value 60"),
    ]:
        wrong = np.zeros((H, W), dtype=np.uint8)
        wrong[2, 3] = value
        save(tree / f"semseg/pascal-context/{TRAIN[1]}.png", wrong)
        with pytest.raises(UsageError, match=rf"{TRAIN[1]}\.png: value {value} .*0 to 20 and 255.*") as caught:
            load(tree, "semseg", index=1)
        assert words in str(caught.value)
    save(tree / f"semseg/pascal-context/{TRAIN[1]}.png", np.zeros((H, W, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"a colour image \(mode RGB\), 12 high and 16 wide; a single channel"):
        load(tree, "semseg", index=1)


def test_saliency_is_above_127(tree: Path) -> None:
    path = tree / f"sal_distill/{TRAIN[0]}.png"
    values = np.zeros((H, W), dtype=np.uint8)
    values[0, :4] = (127, 128, 255, 1)
    save(path, values)
    label = load(tree, "saliency")
    assert label[0, :5].tolist() == [0, 1, 1, 0, 0]
    assert label.sum() == 2
    save(path, values.astype(np.uint16) * 257)
    with pytest.raises(UsageError, match=r"holds .*16; saliency is 8-bit grey"):
        load(tree, "saliency")


def test_parts_are_six_groups(tree: Path) -> None:
    names = {
        1: "head lear rear leye reye lebrow rebrow nose mouth hair",
        2: "neck torso",
        3: "luarm ruarm",
        4: "llarm rlarm lhand rhand",
        5: "luleg ruleg",
        6: "llleg rlleg lfoot rfoot",
    }
    path = tree / f"human_parts/{TRAIN[0]}.mat"
    listed = [(name, group) for group, line in names.items() for name in line.split()]
    assert len(listed) == 24  # the parts of a person in PASCAL-Part
    expected = np.zeros((H, W), dtype=np.uint8)
    parts = []
    for n, (name, group) in enumerate(listed):
        row, column = 1 + n // 8, 2 * (n % 8)
        expected[row, column] = group
        parts.append((name, block(slice(row, row + 1), slice(column, column + 1))))
    whole = block(slice(0, 5), slice(0, W))
    horse = thing(13, whole, [("head", whole), ("tail", whole)])  # parts of animals have names of their own
    save_mat(path, anno=anno([horse, thing(15, whole, parts[:10]), thing(15, whole, parts[10:]), thing(15, whole, [])]))
    nested = loadmat(path)["anno"]
    assert (nested.shape, nested[0][0][1].shape, nested[0][0][1][0][1][3].shape) == ((1, 1), (1, 4), (1, 10))
    assert np.array_equal(load(tree, "parts"), expected)


def test_an_image_without_drawn_persons_has_no_parts(tree: Path) -> None:
    path, mask = tree / f"human_parts/{TRAIN[0]}.mat", block(slice(0, 3), slice(0, 3))
    for things in ([], [thing(15, mask, [])], [thing(13, mask, [("head", mask)])]):
        save_mat(path, anno=anno(things))
        assert dict(opened(tree).load("train", 0, size=(512, 512), tasks=["parts"]).labels) == {}
    assert opened(tree).label_count("parts") == 4  # files, of which some say that nobody is there


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"anno": anno([thing(15, block(slice(1), slice(1)), [("tail", block(slice(1), slice(1)))])])},
            "'tail' is no part",
        ),
        ({"parts": 1}, "no variable 'anno'; it has parts"),
        ({"anno": np.zeros((2, 2))}, "'anno' is not nested as in PASCAL-Part"),
        ({"anno": records("imname", [("x",)])}, "'anno' is not nested as in PASCAL-Part"),
        (
            {"anno": anno([thing(15, np.ones((2, 2)), [("head", np.ones((2, 2))), ("nose", np.ones((3, 2)))])])},
            r"mask of 'nose' is float64 of shape \(3, 2\), another is of shape \(2, 2\)",
        ),
        (
            {"anno": anno([thing(15, np.ones((2, 2)), [("head", np.ones((2, 2)))])])},
            "is 2 high and 2 wide but its image",
        ),
    ],
)
def test_other_annotations_are_refused(tree: Path, variables: dict[str, Any], message: str) -> None:
    save_mat(tree / f"human_parts/{TRAIN[0]}.mat", **variables)
    with pytest.raises(UsageError, match=message) as caught:
        load(tree, "parts")
    assert f"{TRAIN[0]}.mat" in str(caught.value)


def test_normals_count_on_classes_that_nyu_has(tree: Path) -> None:
    path = tree / f"normals_distill/{TRAIN[0]}.png"
    colours = pixels(path)
    colours[6, :5] = ((127, 127, 127), (128, 128, 128), (255, 255, 255), (0, 0, 0), (255, 128, 0))
    save(path, colours)
    vectors = 2.0 * colours / 255 - 1
    expected = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    expected[~np.isin(label_map(), WITH_NORMALS)] = 0
    expected[6, :4] = 0
    label = load(tree, "normals")
    np.testing.assert_allclose(label, expected, atol=1e-6)
    assert label.dtype == np.float32
    assert label[6, 4] == pytest.approx([2**-0.5, 0.00277, -(2**-0.5)], abs=1e-5)  # x right in red, as it is
    assert not label[:6].any()  # sky, aeroplane and class 0
    for form in (list(NYU), NYU):  # names in a list, or with ids
        (tree / "db_info/nyu_classes.json").write_text(json.dumps(form))
        assert np.array_equal(load(tree, "normals"), label)
    # A list of the classes of Context: the first has id 1.
    ordered = [next((name for name, i in CONTEXT.items() if i == n), f"class {n}") for n in range(1, 460)]
    (tree / "db_info/context_classes.json").write_text(json.dumps(ordered))
    assert np.array_equal(load(tree, "normals"), label)


def test_a_tvmonitor_has_normals_though_nyu_calls_it_television(tree: Path) -> None:
    assert "tvmonitor" not in NYU
    save_mat(tree / f"pascal-context/trainval/{TRAIN[0]}.mat", LabelMap=np.full((H, W), 427, dtype=np.uint16))
    label = load(tree, "normals")
    np.testing.assert_allclose(np.linalg.norm(label, axis=2), 1, atol=1e-6)


def test_without_the_lists_of_classes_normals_are_left_out_aloud(tmp_path: Path) -> None:
    dataset = opened(pascal(tmp_path, db_info=False))
    assert dataset.default_tasks == ("semseg", "parts", "saliency", "edge")
    assert [task.name for task in dataset.tasks] == ["semseg", "parts", "saliency", "normals", "edge"]
    assert any("normals are left out" in text and "context_classes.json" in text for text in dataset.layout.remarks)
    with pytest.raises(UsageError, match=r"nyu_classes\.json and context_classes\.json.*copy the folder db_info"):
        dataset.load("train", 0, size=(512, 512), tasks=["normals"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nyu_classes.json", None, r"nyu_classes\.json is missing beside the other list"),
        ("context_classes.json", '{"a": "b"}', r"neither as .*\"name\": id.* nor as"),
        ("context_classes.json", "[1, 2]", "lists classes neither as"),
        ("context_classes.json", "{}", "lists classes neither as"),
        ("context_classes.json", '{"wall": 1}', "does not know 'tvmonitor'"),
        ("nyu_classes.json", "{", "it must be JSON"),
    ],
)
def test_other_lists_of_classes_are_refused(tree: Path, name: str, text: str | None, message: str) -> None:
    path = tree / "db_info" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match=message):
        detect(tree)


def test_edges_are_the_thinned_laplacian(tree: Path) -> None:
    label = load(tree, "edge")
    laplacian = laplace(label_map().astype(np.int64), mode="mirror")
    assert np.array_equal(label, thin(laplacian != 0).astype(np.uint8))
    # By hand: a stripe of 2 between 1 and 3 has Laplacian 1 + 3 - 4 = 0; its neighbours 1 and -1.
    stripes = np.ones((H, W), dtype=np.uint16)
    stripes[:, 7], stripes[:, 8:] = 2, 3
    save_mat(tree / f"pascal-context/trainval/{TRAIN[0]}.mat", LabelMap=stripes)
    expected = np.zeros((H, W), dtype=np.uint8)
    expected[:, [6, 8]] = 1
    assert np.array_equal(load(tree, "edge"), expected)
    # Two regions: both sides of the border, thinned to one of them.
    save_mat(tree / f"pascal-context/trainval/{TRAIN[0]}.mat", LabelMap=np.minimum(stripes, 2).astype(np.float64))
    thinned = load(tree, "edge")
    assert thinned.dtype == np.uint8
    assert thinned[2:-2].sum(axis=1).tolist() == [1] * (H - 4)
    assert np.flatnonzero(thinned.any(axis=0)).tolist() in ([6], [7], [6, 7])


def test_label_maps_hold_class_ids(tree: Path) -> None:
    path = tree / f"pascal-context/trainval/{TRAIN[0]}.mat"
    for wrong in (np.full((H, W), -1), np.full((H, W), 0.5), np.full((H, W), np.nan)):
        save_mat(path, LabelMap=wrong)
        with pytest.raises(UsageError, match=rf"{TRAIN[0]}\.mat: LabelMap holds numbers that are no class ids"):
            load(tree, "edge")
    save_mat(path, LabelMap=np.ones((H, W, 3)))
    with pytest.raises(UsageError, match=r"holds an array of float64 of shape \(12, 16, 3\); a single channel"):
        load(tree, "edge")
    save_mat(path, LabelMap=np.ones((H, W + 1)))
    with pytest.raises(UsageError, match=r"\.mat is 12 high and 17 wide but .*\.png is 12 high and 16 wide"):
        load(tree, "normals")

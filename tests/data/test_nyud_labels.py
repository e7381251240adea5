"""The labels and images of NYUD-v2 in its five variants: every code by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bmtas.data.downloads.nyud import detect
from bmtas.errors import UsageError
from tests.data.trees_nyud import (
    BUILDERS,
    TRAIN,
    H,
    W,
    load,
)
from tests.data.trees_pascal import opened, save, save_mat

Array = npt.NDArray[Any]


def test_class_ids_by_hand(tmp_path: Path) -> None:
    roots = {variant: build(tmp_path / variant) for variant, build in BUILDERS.items()}
    raw = np.zeros((H, W), dtype=np.uint8)
    raw[0, :4] = (0, 1, 2, 40)
    save_mat(roots["ASTMT"] / f"segmentation/{TRAIN[0]}.mat", segmentation=raw.astype(np.float64))
    save(roots["MTL-PyTorch"] / f"segmentation/{TRAIN[0]}.png", raw)
    for variant in ("ASTMT", "MTL-PyTorch"):
        label = load(roots[variant], "semseg")
        assert label[0, :4].tolist() == [255, 0, 1, 39]  # nothing, wall, floor, other_prop
        assert (label[1:] == 255).all()
    raw[0, :4] = (0, 1, 39, 255)
    save(roots["AdaShare"] / f"seg/{TRAIN[0]}.png", raw)
    save(roots["NDDR-CNN"] / f"seg/training/{TRAIN[0]}.png", raw)
    for variant in ("AdaShare", "NDDR-CNN"):
        label = load(roots[variant], "semseg")
        assert label[0, :4].tolist() == [0, 1, 39, 255]
        assert (label[1:] == 0).all()
    signed = np.zeros((H, W), dtype=np.int64)
    signed[0, :3] = (-1, 0, 12)
    save(roots["MTAN"] / "train/label/0.npy", signed)
    assert load(roots["MTAN"], "semseg")[0, :4].tolist() == [255, 0, 12, 0]


@pytest.mark.parametrize(
    ("variant", "name", "value", "other"),
    [
        ("ASTMT", f"segmentation/{TRAIN[0]}.mat", 41, None),
        (
            "MTL-PyTorch",
            f"segmentation/{TRAIN[0]}.png",
            255,
            "looks like 0 to 39 and 255 for what is ignored (AdaShare",
        ),
        ("MTL-PyTorch", f"segmentation/{TRAIN[0]}.png", 41, None),
        ("AdaShare", f"seg/{TRAIN[0]}.png", 40, "looks like 1 to 40 and 0 for what is ignored (ASTMT"),
        ("AdaShare", f"seg/{TRAIN[0]}.png", 254, None),
        ("NDDR-CNN", f"seg/training/{TRAIN[0]}.png", 40, "looks like 1 to 40"),
        ("MTAN", "train/label/0.npy", 13, "looks like 1 to 40"),
        ("MTAN", "train/label/0.npy", 255, "looks like 0 to 39"),
        ("MTAN", "train/label/0.npy", -2, None),
        ("MTAN", "train/label/0.npy", 0.5, None),
        ("MTAN", "train/label/0.npy", np.nan, None),
    ],
)
def test_class_ids_of_other_variants_are_refused(
    tmp_path: Path, variant: str, name: str, value: float, other: str | None
) -> None:
    root = BUILDERS[variant](tmp_path)
    raw = np.zeros((H, W), dtype=np.float32 if variant == "MTAN" else np.uint8)
    raw[3, 4] = value
    if name.endswith(".mat"):
        save_mat(root / name, segmentation=raw)
    else:
        save(root / name, raw)
    with pytest.raises(UsageError) as caught:
        load(root, "semseg")
    message = str(caught.value)
    assert message.startswith(f"{root / name}: value {value:g} (1 pixels")
    assert variant in message
    assert (other in message) if other else ("looks like" not in message)


@pytest.mark.parametrize("variant", ["ASTMT", "MTL-PyTorch", "AdaShare", "MTAN"])
def test_depth_is_in_metres(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path)
    name = "train/depth/0.npy" if variant == "MTAN" else f"depth/{TRAIN[0]}{'.mat' if variant == 'ASTMT' else '.npy'}"
    raw = np.full((H, W), 2.5)
    raw[0, :5] = (0, -1, np.nan, np.inf, 255)

    def write(array: Array) -> None:
        save_mat(root / name, depth=array) if variant == "ASTMT" else save(root / name, array)

    write(raw)
    label = load(root, "depth")
    assert label.dtype == np.float32
    assert np.isnan(label[0, :5]).all()
    assert (label.ravel()[5:] == 2.5).all()
    write(raw * 1000)
    with pytest.raises(UsageError, match=r"value 255000 is no depth .*looks like millimetres"):
        load(root, "depth")
    write(np.full((H, W), 2500, dtype=np.uint16))
    with pytest.raises(UsageError, match=r"value 2500 is no depth .*looks like millimetres"):
        load(root, "depth")
    write(np.ones((H, W, 2)))
    with pytest.raises(UsageError, match=r"of shape \(12, 16, 2\); a single channel"):
        load(root, "depth")
    write(np.ones((H // 2, W // 2)))
    with pytest.raises(UsageError, match=r"is 6 high and 8 wide but its image .* is 12 high and 16 wide"):
        load(root, "depth")
    write(np.zeros((H, W)))
    assert np.isnan(load(root, "depth")).all()


@pytest.mark.parametrize(("variant", "axes"), [("NDDR-CNN", "xyz"), ("AdaShare", "xzY"), ("ASTMT", "xyz")])
def test_normals_in_colours(tmp_path: Path, variant: str, axes: str) -> None:
    """Blocks of one colour, which JPEG keeps: (230, 60, 100), and the four colours that are no direction."""
    root = BUILDERS[variant](tmp_path)
    folder = {"NDDR-CNN": "normal_mask/training", "AdaShare": "normal", "ASTMT": "normals"}[variant]
    path = root / folder / f"{TRAIN[0]}{'.jpg' if variant == 'ASTMT' else '.png'}"
    for value in (0, 127, 128, 255):
        raw = np.full((H, W, 3), value, dtype=np.uint8)
        raw[:8, :8] = (230, 60, 100)
        save(path, raw, **({"quality": 100, "subsampling": 0} if variant == "ASTMT" else {}))
        label = load(root, "normals")
        vector = np.array([230, 60, 100]) / 127.5 - 1
        vector /= np.linalg.norm(vector)
        if axes == "xzY":  # the second is forward, the third up
            vector = vector[[0, 2, 1]] * (1, -1, 1)
        atol = 0.02 if variant == "ASTMT" else 1e-6
        np.testing.assert_allclose(label[:8, :8], np.broadcast_to(vector, (8, 8, 3)), atol=atol)
        assert not label[8:].any()
        assert not label[:, 8:].any()
    save(path, np.full((H, W), 5, dtype=np.uint8))
    with pytest.raises(
        UsageError, match=r"an 8-bit grey image \(mode L\), 12 high and 16 wide; normals are an RGB image"
    ):
        load(root, "normals")


@pytest.mark.parametrize("variant", ["MTL-PyTorch", "MTAN"])
def test_normals_in_arrays(tmp_path: Path, variant: str) -> None:
    root = BUILDERS[variant](tmp_path)
    path = root / ("train/normal/0.npy" if variant == "MTAN" else f"normals/{TRAIN[0]}.npy")
    raw = np.tile(np.float64([0.3, 0, -0.4]), (H, W, 1))  # of length 0.5
    raw[0, :4] = [[0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 0], [255, 255, 255]]
    save(path, raw)
    label = load(root, "normals")
    assert label.dtype == np.float32
    assert not label[0, :4].any()
    np.testing.assert_allclose(label[0, 4:], np.tile([0.6, 0, -0.8], (W - 4, 1)), atol=1e-6)
    save(path, np.tile(np.float64([76, 0, -102]), (H, W, 1)))
    with pytest.raises(UsageError, match=r"a component of a normal is 102; .* looks like colours from 0 to 255"):
        load(root, "normals")
    for wrong in (np.full((H, W, 3), 128, dtype=np.uint8), np.zeros((3, H, W)), np.zeros((H, W))):
        save(path, wrong)
        with pytest.raises(UsageError, match=r"normals are floats of shape \(height, width, 3\)"):
            load(root, "normals")


def test_edges_in_images_and_in_arrays(tmp_path: Path) -> None:
    png = BUILDERS["ASTMT"](tmp_path / "1")
    npy = BUILDERS["MTL-PyTorch"](tmp_path / "2")
    raw = np.zeros((H, W), dtype=np.uint8)
    raw[0, :3] = (255, 127, 128)
    save(png / f"edge/{TRAIN[0]}.png", raw)
    assert load(png, "edge")[0, :4].tolist() == [1, 0, 1, 0]
    save(png / f"edge/{TRAIN[0]}.png", raw > 0)  # an image of 1 bit
    assert load(png, "edge")[0, :4].tolist() == [1, 1, 1, 0]
    for wrong in (raw // 255, raw.astype(np.uint16) * 257):
        save(png / f"edge/{TRAIN[0]}.png", wrong)
        with pytest.raises(UsageError, match=r"edges of this variant go from 0 to 255 as \.png"):
            load(png, "edge")
    floats = np.zeros((H, W))
    floats[0, :4] = (1, 0.5, 0.6, 255)
    for array in (floats, floats.astype(np.float16)):
        save(npy / f"edge/{TRAIN[0]}.npy", array)
        assert load(npy, "edge")[0, :5].tolist() == [1, 0, 1, 255, 0]
    for array in (floats > 0, floats - 1, floats + 1, np.full((H, W), np.nan)):
        save(npy / f"edge/{TRAIN[0]}.npy", array)
        if array.dtype == np.bool_:
            assert load(npy, "edge")[0, :5].tolist() == [1, 1, 1, 1, 0]
            continue
        with pytest.raises(UsageError, match="go from 0 to 1, and 255 for what is ignored"):
            load(npy, "edge")


def test_images_of_floats(tmp_path: Path) -> None:
    root = BUILDERS["MTAN"](tmp_path)
    path = root / "train/image/0.npy"
    raw = np.zeros((H, W, 3), dtype=np.float32)
    raw[0, 0] = (0.2, 1, 0.0019)
    save(path, raw)
    image = opened(root).load("train", 0, size=(H, W), tasks=[]).image
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [51, 255, 0]
    for wrong, message in [
        (raw * 255, "holds float32 from 0 to 255; images of this variant are RGB as floats from 0 to 1"),
        (raw - 1, "holds float32 from -1 to 0"),
        (raw.astype(np.uint8), "holds uint8 from 0 to 1; .* as floats from 0 to 1"),
        (raw[..., 0], r"has the shape \(12, 16\); an image of this variant is \(height, width, 3\)"),
        (np.full((H, W, 3), np.nan), "holds float64 from nan to nan"),
    ]:
        save(path, wrong)
        with pytest.raises(UsageError, match=message):
            opened(root).load("train", 0, size=(H, W), tasks=[])
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(UsageError, match=r"has the shape \(1,\)"):
        detect(root)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="cannot read the array"):
        detect(root)

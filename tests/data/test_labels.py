"""Label files: hand-made pixels come out in the one form of their kind, and other forms are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmtas.data.labels import read_label, resize_nearest
from bmtas.data.manifest import read_manifest
from bmtas.data.stored import read_image
from bmtas.errors import UsageError

H, W = 4, 6
Load = Callable[..., npt.NDArray[Any]]


def grey(value: int = 0) -> npt.NDArray[np.uint8]:
    return np.full((H, W), value, dtype=np.uint8)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Save `array` as a label file and read it back as a manifest with the task's `entry` says."""

    def loaded(array: npt.NDArray[Any] | Image.Image, entry: str, suffix: str = ".png") -> npt.NDArray[Any]:
        path = tmp_path / f"a{suffix}"
        if isinstance(array, Image.Image):
            array.save(path)
        elif suffix == ".npy":
            np.save(path, array)
        else:
            Image.fromarray(array).save(path)
        own = tmp_path / "own.yaml"
        own.write_text(
            f"images: {{folder: i}}\nsplits: {{train: [a], val: [b]}}\ntasks:\n  t: {{folder: t, {entry}}}\n"
        )
        return read_label(path, "t", read_manifest(own).spec.tasks["t"])

    return loaded


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "PT"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    base = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    if mode == "I;16":
        Image.fromarray(np.array([[0, 65535], [65535, 0]], dtype=np.uint16)).save(path)
    elif mode == "PT":  # a palette with transparency in bytes: Pillow warns when it is converted straight to RGB
        base.convert("P").save(path, transparency=bytes([0, 128, 255]))
    else:
        base.convert(mode).save(path)
    image, own = read_image(path, (2, 2))
    assert (str(image.dtype), own) == ("uint8", (2, 2))
    assert image.tolist() == [[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]]


@pytest.mark.parametrize("size", [(3, 5), (4, 6), (7, 13), (48, 60), (1, 1)])
def test_nearest_agrees_with_pillow(size: tuple[int, int]) -> None:
    label = np.random.default_rng(1).integers(0, 256, (12, 17), dtype=np.uint8)
    expected = Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST)
    assert np.array_equal(resize_nearest(label, size), np.asarray(expected))


def test_ids_of_every_form(load: Load) -> None:
    ids = grey()
    ids[0, :4] = [1, 2, 255, 2]
    entry = "kind: segmentation, classes: 3"
    assert np.array_equal(load(ids, entry), ids)
    assert np.array_equal(load(ids.astype(np.uint16), entry), ids)
    palette = Image.fromarray(ids)
    palette.putpalette([9, 9, 9] * 256)  # the colours say nothing, the indices are the ids
    assert palette.mode == "P"
    assert np.array_equal(load(palette, entry), ids)
    values = ids.astype(np.int64)
    values[values == 255] = -1
    (result,) = [load(values, f"{entry}, suffix: .npy, ignore: -1", ".npy")]
    assert np.array_equal(result, ids)
    assert result.dtype == np.uint8


def test_ignored_and_mapped_values(load: Load) -> None:
    ids = grey(7)
    ids[0] = [0, 3, 7, 9, 255, 7]
    mapped = load(ids, "kind: segmentation, classes: 2, map: {7: 0, 9: 1}, ignore: [0, 3, 255]")
    assert mapped[0].tolist() == [255, 255, 0, 1, 255, 0]
    zero = load(np.minimum(ids, 1), "kind: segmentation, classes: 2, ignore: 0")
    assert zero[0].tolist() == [255, 1, 1, 1, 1, 1]
    wide = load(np.array([[1000, 65535]] * H, dtype=np.uint16).repeat(3, 1), "kind: edge, map: {1000: 1, 65535: 0}")
    assert wide[0].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["binary", "edge"])
def test_masks_say_what_255_means(load: Load, kind: str) -> None:
    mask = grey()
    mask[0, :3] = [1, 255, 128]
    assert load(mask, f"kind: {kind}, ignore: 255")[0].tolist() == [1, 255, 1, 0, 0, 0]
    assert load(mask, f"kind: {kind}, ignore: null")[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert load(mask, f"kind: {kind}, ignore: [128, 255]")[0].tolist() == [1, 255, 255, 0, 0, 0]
    with pytest.raises(UsageError, match=r"a\.png: value 255 .* may mean foreground or ignored.*'ignore: null'"):
        load(mask, f"kind: {kind}")
    assert load(mask > 0, f"kind: {kind}")[0].tolist() == [
        1,
        1,
        1,
        0,
        0,
        0,
    ]  # 1 bit per pixel leaves no doubt


def test_normals_of_every_convention(load: Load) -> None:
    rgb = np.full((H, W, 3), (255, 127, 127), dtype=np.uint8)
    rgb[0, :5] = [(0, 0, 0), (255, 255, 255), (128, 127, 128), (0, 128, 64), (0, 255, 0)]
    n = load(rgb, "kind: normals")
    assert n.dtype == np.float32
    assert n[0, :3].tolist() == [[0, 0, 0]] * 3  # black, white, grey: no normal
    v = np.array([-1, 128 / 127.5 - 1, 64 / 127.5 - 1])
    np.testing.assert_allclose(n[0, 3], v / np.linalg.norm(v), atol=1e-6)
    np.testing.assert_allclose(n[0, 4], np.array([-1, 1, -1]) / np.sqrt(3), atol=1e-6)
    np.testing.assert_allclose(n[3, 3], [1, 0, 0], atol=0.01)
    assert np.array_equal(load(rgb[..., ::-1].copy(), "kind: normals, encoding: bgr"), n)
    flipped = n * np.array([1, -1, 1], dtype=np.float32)
    assert np.array_equal(load(rgb, "kind: normals, flip_y: true"), flipped)
    assert np.array_equal(load(rgb, "kind: normals, axes: [x, -y, z]"), flipped)
    # x from red, z from green, minus y from blue.
    assert np.array_equal(
        load(rgb, "kind: normals, axes: [x, z, -y]"), n[..., [0, 2, 1]] * np.array([1, -1, 1], np.float32)
    )
    floats = np.zeros((H, W, 3))
    floats[0, :2] = [(0, 0, -2), (np.nan, 0, 1)]
    assert load(floats, "kind: normals, encoding: npy", ".npy")[0, :3].tolist() == [
        [0, 0, -1],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_depth_is_in_metres(load: Load) -> None:
    millimetres = np.full((H, W), 2413, dtype=np.uint16)
    millimetres[0, :2] = [0, 65535]
    depth = load(millimetres, "kind: depth, scale: 0.001, invalid: 65535")
    assert depth.dtype == np.float32
    assert depth[1, 1] == np.float32(2.413)
    assert np.isnan(depth).sum() == 2
    metres = np.full((H, W), 1.5)
    metres[0, :5] = [0, -1, np.nan, np.inf, 1e300]
    depth = load(metres, "kind: depth, encoding: npy", ".npy")
    assert np.isnan(depth[0, :5]).all()
    assert depth[1, 1] == 1.5


def test_regression_scales_and_aligns(load: Load) -> None:
    values = grey(100)
    values[0, 0] = 0
    scaled = load(values, "kind: regression, scale: 0.01, invalid: 0")
    assert np.isnan(scaled[0, 0])
    assert scaled[1, 1] == np.float32(1)
    assert load(values, "kind: regression")[0, 0] == 0  # no value is invalid unless the manifest says so
    # Valid: 4 x 10, 12 x 20, 7 x 40. Median 20; distances 10 (4), 0 (12), 20 (7): their median is 0.
    flat = np.repeat(np.array([0, 10, 20, 40], np.uint16), [1, 4, 12, 7]).reshape(H, W)
    entry = "kind: regression, encoding: uint16, invalid: 0, normalise: median_mad"
    with pytest.raises(UsageError, match=r"a\.png: at least half of the valid pixels have the value 20.*'invalid'"):
        load(flat, entry)
    # Valid: 8 x 10, 7 x 20, 8 x 50. Median 20; distances 0 (7), 10 (8), 30 (8): their median is 10.
    spread = np.repeat(np.array([0, 10, 20, 50], np.uint16), [1, 8, 7, 8]).reshape(H, W)
    aligned = load(spread, entry).ravel()
    assert np.isnan(aligned[0])
    assert aligned[[1, 9, 23]].tolist() == [-1, 0, 3]
    assert np.isnan(load(grey().astype(np.uint16), entry)).all()


@pytest.mark.parametrize(
    ("array", "entry", "message"),
    [
        (
            np.zeros((H, W, 3), np.uint8),
            "kind: segmentation, classes: 2",
            r"a colour image \(mode RGB\).*convert it",
        ),
        (np.zeros((H, W)), "kind: edge, suffix: .npy", r"an array of float64 of shape \(4, 6\)"),
        (grey(), "kind: depth, scale: 0.001", r"8-bit grey image.*asks for a 16-bit grey image: convert"),
        (grey().astype(np.uint16), "kind: regression", "16-bit grey image.*asks for an 8-bit grey image"),
        (grey(), "kind: normals", "8-bit grey image.*asks for an RGB image"),
        (
            np.zeros((H, W), np.float32),
            "kind: normals, encoding: npy",
            r"floats of shape \(height, width, 3\)",
        ),
        (
            np.zeros((H, W, 1), np.float32),
            "kind: depth, encoding: npy",
            r"numbers of shape \(height, width\)",
        ),
        (grey(7), "kind: segmentation, classes: 2, map: {0: 0}", "value 7 .*is not in the 'map' of task 't'"),
        (np.full((H, W), -3), "kind: binary, suffix: .npy", "value -3 .*is negative in a mask"),
        (
            np.full((H, W), 70000),
            "kind: segmentation, classes: 2, suffix: .npy",
            "value 70000 .*ids are 0 to 1",
        ),
    ],
)
def test_labels_in_another_form_are_refused(load: Load, array: npt.NDArray[Any], entry: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"a\.(png|npy).*{message}"):
        load(array, entry, ".npy" if "npy" in entry else ".png")

"""Augmentation: image and labels move together, keep their sizes, and labels keep their meaning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bmtas.data.augment import Augmentation, augment
from bmtas.data.protocol import Sample
from bmtas.tasks import Task, TaskKind

H, W = 24, 32
SLOPE = 5  # grey levels per pixel of the ramp
TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=tuple(f"c{i}" for i in range(255))),
    Task(name="mask", kind=TaskKind.BINARY),
    Task(name="edge", kind=TaskKind.EDGE),
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="value", kind=TaskKind.REGRESSION),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
)
SCALES = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0)


def sample() -> Sample:
    """Return an image whose red channel is a ramp to the right and green one downwards, and labels that say the same."""
    down, right = np.mgrid[:H, :W]
    image = np.stack([SLOPE * right, SLOPE * down, (right * 7 + down * 3) % 256], axis=2).astype(np.uint8)
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(H, W, 3))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    labels = {
        "semseg": image[..., 0].copy(),
        "mask": (right > 20).astype(np.uint8),
        "edge": (rng.random((H, W)) < 0.2).astype(np.uint8),
        "normals": normals.astype(np.float32),
        "depth": (1 + image[..., 0] / 100).astype(np.float32),
        "value": (down * W + right).astype(np.float32),
        "place": np.int64(1),
    }
    return Sample("one", image, labels)


def drawn(augmentation: Augmentation, seed: int = 0, given: Sample | None = None) -> Sample:
    return augment(given or sample(), TASKS, augmentation, np.random.default_rng(seed))


def mirrored_seed() -> int:
    """Return a seed by which an image is mirrored."""
    flip = Augmentation(flip=True)
    return next(s for s in range(50) if not np.array_equal(drawn(flip, s).image, sample().image))


MIRROR = Augmentation(flip=True)


def test_without_augmentation_nothing_changes() -> None:
    before, after = sample(), drawn(Augmentation(flip=False))
    np.testing.assert_array_equal(after.image, before.image)
    for name, label in before.labels.items():
        np.testing.assert_array_equal(after.labels[name], label)


def test_about_half_of_the_images_are_mirrored() -> None:
    rng, given = np.random.default_rng(0), sample()
    outcomes = [augment(given, TASKS, MIRROR, rng).image for _ in range(400)]
    mirrored = sum(np.array_equal(image, given.image[:, ::-1]) for image in outcomes)
    unchanged = sum(np.array_equal(image, given.image) for image in outcomes)
    assert mirrored + unchanged == 400
    assert abs(mirrored - 200) < 4 * 10  # four standard deviations


def test_a_mirrored_image_and_its_labels() -> None:
    before, after = sample(), drawn(MIRROR, mirrored_seed())
    np.testing.assert_array_equal(after.image, before.image[:, ::-1])
    for name in ("semseg", "mask", "edge", "depth", "value"):
        np.testing.assert_array_equal(after.labels[name], before.labels[name][:, ::-1])
    np.testing.assert_array_equal(after.labels["semseg"], after.image[..., 0])


def test_in_the_mirror_normals_point_the_other_way_along_x() -> None:
    before, after = sample().labels["normals"], drawn(MIRROR, mirrored_seed()).labels["normals"]
    np.testing.assert_array_equal(after[..., 0], -before[:, ::-1, 0])
    np.testing.assert_array_equal(after[..., 1:], before[:, ::-1, 1:])
    assert after.dtype == np.float32


def test_invalid_normals_stay_invalid_in_the_mirror() -> None:
    given = sample()
    given.labels["normals"][2, 3] = 0
    after = drawn(MIRROR, mirrored_seed(), given).labels["normals"]
    assert [tuple(at) for at in np.argwhere((after == 0).all(axis=2))] == [(2, W - 1 - 3)]


def test_mirrored_twice_is_the_same_as_not_at_all() -> None:
    seed, before = mirrored_seed(), sample()
    after = drawn(MIRROR, seed, drawn(MIRROR, seed))
    np.testing.assert_array_equal(after.image, before.image)
    for name, label in before.labels.items():
        np.testing.assert_array_equal(after.labels[name], label)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_sizes_and_types_are_kept(scale: float, seed: int) -> None:
    before, after = sample(), drawn(Augmentation(scales=(scale,)), seed)
    assert (after.id, after.image.shape, after.image.dtype) == ("one", (H, W, 3), np.uint8)
    assert set(after.labels) == set(before.labels)
    for name, label in before.labels.items():
        assert (after.labels[name].shape, after.labels[name].dtype) == (label.shape, label.dtype), name


@pytest.mark.parametrize("augmentation", [MIRROR, *(Augmentation(scales=(s,)) for s in (0.5, 2.0))])
def test_labels_of_whole_images_are_left_alone(augmentation: Augmentation) -> None:
    assert all(drawn(augmentation, seed).labels["place"] == 1 for seed in range(8))


@pytest.mark.parametrize("seed", range(6))
def test_twice_as_large_is_a_part_of_the_image_with_every_pixel_doubled(seed: int) -> None:
    given = sample()
    value = given.labels["value"].copy()
    after = drawn(Augmentation(flip=False, scales=(2.0,)), seed, given)
    doubled = np.kron(value, np.ones((2, 2), dtype=np.float32))
    places = [
        (top, left)
        for top in range(H + 1)
        for left in range(W + 1)
        if np.array_equal(doubled[top : top + H, left : left + W], after.labels["value"])
    ]
    assert len(places) == 1
    top, left = places[0]

    def part(label: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return label.repeat(2, axis=0).repeat(2, axis=1)[top : top + H, left : left + W]

    for name in ("semseg", "mask", "edge", "normals"):
        np.testing.assert_array_equal(after.labels[name], part(given.labels[name]))
    # what is seen twice as large is seen from half as far
    np.testing.assert_allclose(after.labels["depth"], part(given.labels["depth"]) / 2, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_half_as_large_is_the_whole_image_on_a_ground_that_is_invalid(seed: int) -> None:
    given = sample()
    after = drawn(Augmentation(flip=False, scales=(0.5,)), seed, given)
    inside = np.isfinite(after.labels["value"])
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (len(rows), len(columns), inside.sum()) == (H // 2, W // 2, H * W // 4)
    assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (H // 2 - 1, W // 2 - 1)
    np.testing.assert_array_equal(np.isfinite(after.labels["depth"]), inside)
    np.testing.assert_array_equal(after.labels["normals"].any(axis=2), inside)
    for name in ("semseg", "mask", "edge"):
        np.testing.assert_array_equal(after.labels[name] != 255, inside)
    assert (after.image[~inside] == 127).all()
    # each 2x2 block is represented by one of its pixels, seen from twice as far
    chosen = after.labels["value"][inside].astype(int)
    np.testing.assert_array_equal(chosen // W // 2, np.repeat(np.arange(H // 2), W // 2))
    np.testing.assert_array_equal(chosen % W // 2, np.tile(np.arange(W // 2), H // 2))
    np.testing.assert_allclose(after.labels["depth"][inside], given.labels["depth"].ravel()[chosen] * 2, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_image_and_labels_stay_aligned(scale: float) -> None:
    gaps = []
    for seed in range(20):
        after = drawn(Augmentation(scales=(scale,)), seed)
        valid = after.labels["semseg"] != 255
        valid &= (after.labels["value"] % W > 2) & (
            after.labels["value"] % W < W - 3
        )  # beside the borders, as they smooth
        gap = after.image[..., 0].astype(float)[valid] - after.labels["semseg"].astype(float)[valid]
        assert np.abs(gap).max() <= SLOPE * 0.55 + 1  # the nearest pixel is at most half a pixel away
        gaps.append(gap)
    # moved by one pixel of the result, they would differ by SLOPE / scale on average
    assert abs(np.concatenate(gaps).mean()) < 0.35 * SLOPE / scale


def test_the_generator_decides_the_augmentation() -> None:
    augmentation = Augmentation(scales=SCALES)
    for seed in range(5):
        np.testing.assert_array_equal(drawn(augmentation, seed).image, drawn(augmentation, seed).image)
    assert len({drawn(augmentation, seed).image.tobytes() for seed in range(20)}) > 15


def test_the_given_sample_is_left_alone() -> None:
    given, untouched = sample(), sample()
    for seed in range(10):
        drawn(Augmentation(scales=SCALES), seed, given)
    np.testing.assert_array_equal(given.image, untouched.image)
    for name, label in untouched.labels.items():
        np.testing.assert_array_equal(given.labels[name], label)

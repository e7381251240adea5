"""The data set `scenes`: its labels' rules, its promises and its errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bmtas.data.protocol import Dataset, Sample
from bmtas.data.raycast import CLASSES, PARTS, Shape, render_scene
from bmtas.data.scenes import VERSION, Scenes
from bmtas.errors import UsageError

ALL = ["semseg", "parts", "saliency", "normals", "edge", "depth"]
RECORD = (97.692, 3.3562, 232)  # of VERSION 1: mean grey level, mean depth and edge pixels of the first image
SOLID_CLASSES = [CLASSES.index(s.value) for s in Shape]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    data: Dataset = Scenes()
    return [data.load("train", i, size=(64, 64), tasks=ALL) for i in range(64)]


def test_forms_of_the_labels(samples: list[Sample]) -> None:
    forms = {
        "semseg": np.uint8,
        "parts": np.uint8,
        "saliency": np.uint8,
        "edge": np.uint8,
        "depth": np.float32,
    }
    for sample in samples:
        assert sample.image.shape == (64, 64, 3)
        assert sample.image.dtype == np.uint8
        assert list(sample.labels) == ALL
        for name, dtype in forms.items():
            assert sample.labels[name].dtype == dtype
            assert sample.labels[name].shape == (64, 64)
        normals, depth = sample.labels["normals"], sample.labels["depth"]
        assert normals.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-5)
        assert 0.3 < depth.min() < depth.max() < 12
        assert sample.labels["semseg"].max() < len(CLASSES)
        assert 40 < sample.image.mean() < 200  # neither dark nor glaring


def test_visible_surfaces_face_the_camera(samples: list[Sample]) -> None:
    for index, sample in enumerate(samples[:16]):
        slope = (np.arange(64) - 31.5) / 32 / Scenes().scene("train", index).camera.focal
        u, v = np.meshgrid(slope, slope)
        n = sample.labels["normals"].astype(np.float64)
        assert (n[..., 0] * u + n[..., 1] * v + n[..., 2] < 1e-3).all()


def test_all_classes_and_parts_occur(samples: list[Sample]) -> None:
    for name, known in (("semseg", CLASSES), ("parts", PARTS)):
        assert set(np.unique([s.labels[name] for s in samples])) == set(range(len(known)))


def test_parts_belong_to_their_solids(samples: list[Sample]) -> None:
    for sample in samples:
        semseg, parts = sample.labels["semseg"], sample.labels["parts"]
        np.testing.assert_array_equal(parts == 0, ~np.isin(semseg, SOLID_CLASSES))
        for part, name in enumerate(PARTS[1:], 1):
            assert (semseg[parts == part] == CLASSES.index(name.split("_")[0])).all()


def test_salient_pixels_are_the_vivid_ones(samples: list[Sample]) -> None:
    for sample in samples:
        salient = sample.labels["saliency"] == 1
        assert 0 < salient.mean() < 0.7
        rgb = sample.image.astype(float)
        saturation = 1 - rgb.min(axis=2) / rgb.max(axis=2)
        assert saturation[salient].min() > 0.85
        assert saturation[~salient].max() < 0.6
        assert np.isin(sample.labels["semseg"][salient], SOLID_CLASSES).all()


def test_edges_are_where_surfaces_meet() -> None:
    data = Scenes()
    sample = data.load("train", 3, size=(24, 36), tasks=["edge", "semseg"])
    surface = render_scene(data.scene("train", 3), (24, 36)).surface
    for y in range(24):
        for x in range(36):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            other = [surface[p] for p in around if 0 <= p[0] < 24 and 0 <= p[1] < 36]
            assert sample.labels["edge"][y, x] == any(o != surface[y, x] for o in other)
    assert 0.05 < sample.labels["edge"].mean() < 0.6


def test_scene_does_not_depend_on_size() -> None:
    data = Scenes()
    for index in range(4):
        # A third of the size: its pixels' centres are those of every third pixel.
        small = data.load("val", index, size=(40, 64), tasks=ALL)
        large = data.load("val", index, size=(120, 192), tasks=ALL)
        for name in ("semseg", "parts", "saliency"):
            assert (small.labels[name] == large.labels[name][1::3, 1::3]).mean() > 0.995
        assert np.isclose(small.labels["depth"], large.labels["depth"][1::3, 1::3], atol=1e-3).mean() > 0.995
        assert (np.abs(small.image.astype(int) - large.image[1::3, 1::3]) <= 1).mean() > 0.98
        double = data.load("val", index, size=(80, 128), tasks=["semseg"])
        assert (small.labels["semseg"] == double.labels["semseg"][::2, ::2]).mean() > 0.95


def test_square_view_is_the_middle_of_a_wide_one() -> None:
    data = Scenes()
    square = data.load("train", 1, size=(48, 48), tasks=ALL)
    wide = data.load("train", 1, size=(48, 96), tasks=ALL)
    np.testing.assert_array_equal(square.image, wide.image[:, 24:72])
    np.testing.assert_array_equal(square.labels["depth"], wide.labels["depth"][:, 24:72])
    assert wide.image.shape == (48, 96, 3)


def test_rooms_are_sound() -> None:
    data = Scenes(train=200)
    for index in range(200):
        scene = data.scene("train", index)
        for point in (scene.camera.position, scene.light):
            assert all(0.1 < p < r - 0.1 for p, r in zip(point, scene.room, strict=True))
            for body in scene.solids:
                aside = math.dist(point[:2], body.centre[:2]) > math.hypot(*body.half[:2])
                assert aside or point[2] > body.centre[2] + body.half[2]
        tops = [0.0] + [b.centre[2] + b.half[2] for b in scene.solids]
        for body in scene.solids:
            reach = body.half[0]
            assert all(reach < c < r - reach for c, r in zip(body.centre[:2], scene.room[:2], strict=True))
            assert min(abs(body.centre[2] - body.half[2] - top) for top in tops) < 1e-9
        standing = [b for b in scene.solids if b.centre[2] == b.half[2]]
        for k, one in enumerate(standing):
            for two in standing[:k]:
                # At least the longer half sizes apart (for round solids: the radii).
                assert math.dist(one.centre[:2], two.centre[:2]) > one.half[0] + two.half[0]
        assert 1 <= sum(b.salient for b in scene.solids) <= 2
        for panel in scene.panels:
            ends = [scene.room[i] for i in ((1, 2), (0, 2), (0, 1))[panel.face // 2]]
            assert all(h <= c <= e - h for c, h, e in zip(panel.centre, panel.half, ends, strict=True))


def test_splits_seeds_and_indices_differ() -> None:
    scenes = [
        Scenes().scene("train", 0),
        Scenes().scene("val", 0),
        Scenes().scene("train", 1),
        Scenes(seed=1).scene("train", 0),
        Scenes(seed=1).scene("val", 0),
    ]
    assert len({s.room for s in scenes}) == len(scenes)


def test_only_the_labels_asked_for() -> None:
    sample = Scenes().load("train", 12, size=(16, 16), tasks=["edge", "depth"])
    assert list(sample.labels) == ["edge", "depth"]
    assert sample.id == "train-000012"
    assert Scenes().load("train", 12, size=(16, 16), tasks=[]).labels == {}


def test_protocol() -> None:
    data = Scenes(train=3, val=2, size=(96, 128))
    assert data.ids("train") == ["train-000000", "train-000001", "train-000002"]
    assert data.ids("val") == ["val-000000", "val-000001"]
    assert (data.name, data.size) == ("scenes", (96, 128))
    assert [t.name for t in data.tasks] == ALL
    assert [t.loss_weight for t in data.tasks] == [1, 2, 5, 10, 50, 1]


def test_fingerprint() -> None:
    assert Scenes().fingerprint() == Scenes(size=(64, 64)).fingerprint()
    others = [Scenes(), Scenes(seed=1), Scenes(train=5), Scenes(val=5)]
    assert len({d.fingerprint() for d in others}) == 4


def test_the_version_is_raised_when_the_data_change() -> None:
    # A record, not a truth: if this fails, raise VERSION and write the new numbers here.
    sample = Scenes().load("train", 0, size=(32, 32), tasks=["depth", "edge"])
    found = (
        float(sample.image.mean()),
        float(sample.labels["depth"].mean()),
        float(sample.labels["edge"].sum()),
    )
    assert VERSION == 1
    np.testing.assert_allclose(found, RECORD, rtol=0.003)


def test_errors() -> None:
    data = Scenes(train=3, val=2)
    with pytest.raises(UsageError, match="unknown split 'tain'; did you mean 'train'"):
        data.ids("tain")
    with pytest.raises(UsageError, match="known: train, val"):
        data.load("test", 0, size=(16, 16), tasks=ALL)
    with pytest.raises(UsageError, match="did you mean 'depth'"):
        data.load("train", 0, size=(16, 16), tasks=["dept"])
    with pytest.raises(UsageError, match="at least 8"):
        data.load("train", 0, size=(16, 7), tasks=ALL)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="3 images"):
            data.load("train", index, size=(16, 16), tasks=ALL)
    for wrong in ({"seed": -1}, {"train": 0}, {"val": 0}, {"size": (4, 512)}):
        with pytest.raises(UsageError):
            Scenes(**wrong)

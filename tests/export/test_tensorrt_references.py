"""References come back as they were written, and nothing else is taken for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind
from export.proof.compare import compare
from export.proof.limits import limits_for
from export.proof.references import References, collect
from export.sessions.protocol import Array

DEPTH = Task(name="depth", kind=TaskKind.DEPTH)
PARTS = Task(name="parts", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c"))
SCENE = Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("in", "out"))
TASKS = (DEPTH, PARTS, SCENE)
IMAGES = np.linspace(-1, 1, 2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)


def raw(image: Array) -> dict[str, Array]:
    """Depth is the mean over channels, parts the channels themselves, the scene two of their means."""
    means = image.mean(axis=(2, 3))
    return {"depth": image.mean(axis=1, keepdims=True), "parts": image, "scene": means[:, :2]}


@pytest.fixture(scope="module")
def references() -> References:
    return collect(raw, [IMAGES[:1], IMAGES[1:]], TASKS, final=False, made_by="numpy")


def test_they_come_back_as_they_were_written(references: References, tmp_path: Path) -> None:
    references.save(tmp_path / "references.npz")
    back = References.load(tmp_path / "references.npz")
    assert (back.tasks, back.final, back.made_by, len(back)) == (TASKS, False, "numpy", 2)
    np.testing.assert_array_equal(back.images, IMAGES)
    np.testing.assert_array_equal(back.outputs["depth"], IMAGES.mean(axis=1, keepdims=True))
    assert back.outputs["depth"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["references.npz"]


def test_they_prove_what_computes_the_same_and_nothing_else(references: References) -> None:
    limits = limits_for("fp32", TASKS)
    assert compare(references.pairs(raw), TASKS, limits)["passed"]

    def shifted(image: Array) -> dict[str, Array]:
        return {**raw(image), "depth": raw(image)["depth"] + np.float32(0.5)}

    report = compare(references.pairs(shifted), TASKS, limits)
    assert report["images"] == 2
    assert {name: entry["passed"] for name, entry in report["tasks"].items()} == {
        "depth": False,
        "parts": True,
        "scene": True,
    }
    assert report["tasks"]["depth"]["max_abs_difference"] == pytest.approx(0.5, abs=1e-6)


def test_final_predictions_have_shapes_of_their_own() -> None:
    ids = {"parts": np.zeros((2, 4, 6), np.int64), "scene": np.ones(2, np.int32)}
    assert len(References(IMAGES, ids, (PARTS, SCENE), True, "x")) == 2
    with pytest.raises(UsageError, match=r"'parts' has shape \(2, 4, 6\); expected \(N, 3, H, W\)"):
        References(IMAGES, ids, (PARTS, SCENE), False, "x")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": IMAGES[:0]}, "at least one image"),
        ({"images": IMAGES.astype(np.float64)}, "float64"),
        ({"images": IMAGES[0]}, "images of shape"),
        ({"tasks": TASKS[:2]}, "outputs of depth, parts, scene for the tasks depth, parts"),
        ({"tasks": ()}, "for the tasks"),
        ({"outputs": {**raw(IMAGES), "depth": IMAGES}}, "'depth' has shape"),
        ({"outputs": {**raw(IMAGES), "depth": IMAGES[:1, :1]}}, "'depth' has shape"),
        ({"outputs": {**raw(IMAGES), "depth": np.zeros((2, 1, 4, 6), np.int32)}}, "expected floats"),
        ({"outputs": {**raw(IMAGES), "depth": np.full((2, 1, 4, 6), np.nan, np.float32)}}, "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], match: str) -> None:
    good: dict[str, Any] = {"images": IMAGES, "outputs": raw(IMAGES), "tasks": TASKS, "final": False, "made_by": "x"}
    References(**good)
    with pytest.raises(UsageError, match=match):
        References(**{**good, **change})


def test_images_of_several_sizes_make_no_references() -> None:
    with pytest.raises(UsageError, match="one size"):
        collect(raw, [IMAGES[:1], IMAGES[:1, :, :2]], TASKS, final=False, made_by="x")
    with pytest.raises(UsageError, match="one size"):
        collect(raw, [], TASKS, final=False, made_by="x")


def test_other_files_are_refused(references: References, tmp_path: Path) -> None:
    path = tmp_path / "references.npz"
    with pytest.raises(UsageError, match="does not exist"):
        References.load(path)
    references.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="does not hold references"):
        References.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="does not hold references"):
        References.load(path)
    np.savez(path, images=IMAGES)
    with pytest.raises(UsageError, match="does not hold references"):
        References.load(path)
    pickled = np.array([{"an": "object"}], dtype=object)  # loading it would run what it says
    np.savez(path, images=pickled, about=pickled)
    with pytest.raises(UsageError, match="does not hold references"):
        References.load(path)
    np.savez(path, about=np.frombuffer(json.dumps({"schema_version": 9}).encode(), np.uint8))
    with pytest.raises(UsageError, match="schema 9"):
        References.load(path)

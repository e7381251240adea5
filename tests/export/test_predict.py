"""Predictions of a folder of images: what is refused before anything runs, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from bmtas.errors import UsageError
from bmtas.progress import Silent
from export.artefacts import record
from export.interface import Interface
from export.metadata import set_metadata
from export.predict import open_artefact, predict
from export.sessions.onnx import OnnxSession

PROOF = {"precision": "fp32", "tasks": {}, "images": 1}


@pytest.fixture
def images(tmp_path: Path, camera: np.ndarray) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    np.save(folder / "a.npy", camera)
    Image.fromarray(camera[:, ::-1]).save(folder / "b.png")
    return folder


def written(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("interface", [Interface(), Interface("uint8", "predictions")], ids=["float32", "uint8"])
def test_each_image_gives_what_the_network_computes_of_it(
    interface: Interface, exported: Callable[..., Any], images: Path, camera: np.ndarray, tmp_path: Path
) -> None:
    path = written(exported(interface), tmp_path / "model.onnx")
    out = tmp_path / "out"
    report = predict(open_artefact(path), images, out, None, Silent())
    assert report["images"] == 2
    assert sorted(p.name for p in out.iterdir()) == ["a.npz", "b.npz"]
    for name, image in (("a", camera), ("b", camera[:, ::-1])):
        made = (
            image[None] if interface.input_type == "uint8" else image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1
        )
        wanted = OnnxSession(path)(np.ascontiguousarray(made.astype(interface.input_type)))
        with np.load(out / f"{name}.npz") as found:
            assert set(found) == set(wanted)
            for task in wanted:
                np.testing.assert_allclose(found[task], wanted[task], atol=1e-5)


def test_what_was_proved_is_compared_before_it_is_loaded(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = written(exported(), tmp_path / "model.onnx")
    record(path, PROOF)
    open_artefact(path)
    other = onnx.ModelProto()
    other.CopyFrom(exported())
    set_metadata(other, {"precision": "fp16"})
    written(other, path)
    with pytest.raises(UsageError, match="not the file that was proved"):
        open_artefact(path)
    path.write_bytes(b"no network at all")  # what a runtime would complain of is never reached
    with pytest.raises(UsageError, match="not the file that was proved"):
        open_artefact(path)
    written(other, path)
    (tmp_path / "parity.json").unlink()  # a copy on a device
    open_artefact(path)


def test_a_network_that_was_trained_anew_is_refused(exported: Callable[..., Any], tmp_path: Path) -> None:
    path = written(exported(), tmp_path / "model.onnx")
    (tmp_path / "weights.pt").write_bytes(b"new")
    record(path, {**PROOF, "weights_sha256": "0" * 64})
    with pytest.raises(UsageError, match="trained anew since"):
        open_artefact(path)


def test_two_images_of_one_name_are_refused(exported: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    (images / "b.jpg").write_bytes((images / "b.png").read_bytes())
    runner = open_artefact(written(exported(), tmp_path / "model.onnx"))
    with pytest.raises(UsageError, match=r"b\.jpg and b\.png .* b\.npz"):
        predict(runner, images, tmp_path / "out", None, Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outputs": "logit"}, "did you mean 'logits'"),
        ({"outputs": None}, "tell of None"),
        ({"input": {"dtype": "float16", "size": [32, 48]}}, "'float16'.*did you mean 'float32'"),
        ({"input": {"size": [32, 48]}}, "does not say what it takes"),
        ({"input": {"dtype": "uint8", "size": [32]}}, "does not say what it takes"),
        ({"input": {"dtype": "uint8", "size": "ab"}}, "does not say what it takes"),
        ({"input": [1]}, "does not say what it takes"),
        ({"input": {"dtype": "uint8", "size": [0, 48]}}, "0x48"),
    ],
    ids=json.dumps,
)
def test_metadata_that_do_not_tell_the_interface_are_refused(
    changed: dict[str, Any], message: str, exported: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported())
    set_metadata(model, changed)
    runner = open_artefact(written(model, tmp_path / "model.onnx"))
    with pytest.raises(UsageError, match=message):
        predict(runner, images, tmp_path / "out", None, Silent())

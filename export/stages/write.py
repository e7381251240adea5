"""Writes a split network: a folder with one ONNX file per stage and the manifest, never half of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bmtas.errors import UsageError
from bmtas.extras import require
from bmtas.files import atomic_folder, atomic_path, file_hash, write_json
from export.metadata import read_metadata
from export.sessions.protocol import TensorSpec
from export.stages.cut import Stage, split_at_branches
from export.stages.manifest import IMAGE, MANIFEST, SCHEMA_VERSION, Manifest, check_wiring
from export.stages.values import spec

if TYPE_CHECKING:
    from onnx import ModelProto


def write_split(model: ModelProto, folder: Path) -> Manifest:
    """Split `model` at its branches into `folder` and return the manifest; a split that was there before is replaced at the end.

    Raises UsageError if `folder` exists and holds something else, or the network has not exactly one input; what
    `split_at_branches` raises; EnvironmentProblem if the disk is full.
    """
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input)
        raise UsageError(f"the network has the inputs {names}; a network with one image as its input can be split")
    stages = split_at_branches(model)
    _require_own(folder)
    with atomic_folder(folder) as beside:
        manifest = _write(model, stages, beside)
        check_wiring(manifest, str(folder / MANIFEST))
        write_json(beside / MANIFEST, manifest.to_json())
    return manifest


def _write(model: ModelProto, stages: Sequence[Stage], folder: Path) -> Manifest:
    onnx = require("onnx", "host")
    image = spec(model.graph.input[0])
    sources = {image.name: IMAGE}
    entries = []
    for number, stage in enumerate(stages):
        file = f"stage_{number:02d}.onnx"
        with atomic_path(folder / file) as path:
            onnx.save(stage.model, str(path))
        entries.append(
            {
                "file": file,
                "sha256": file_hash(folder / file),
                "tasks": list(stage.tasks),
                "inputs": [{**_fields(v), "from": sources[v.name]} for v in stage.inputs],
                "outputs": [_fields(v) for v in stage.outputs],
            }
        )
        sources.update({v.name: file for v in stage.outputs})
    return Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "image": _fields(image),
            "tasks": [output.name for output in model.graph.output],
            "stages": entries,
            "metadata": read_metadata({entry.key: entry.value for entry in model.metadata_props}, "the ONNX model"),
        }
    )


def _fields(value: TensorSpec) -> dict[str, object]:
    return {"name": value.name, "shape": list(value.shape), "dtype": value.dtype}


def _require_own(folder: Path) -> None:
    """Raise UsageError if `folder` holds something else than a split network."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is no split network; choose a new folder, or remove this one")

"""`bmtas check`: what an exported file is, and whether it still is what was proved. Needs no torch; nothing of a `.pt2` is loaded."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmtas.errors import BuildError, EnvironmentProblem, UsageError
from export.artefacts import PROOFS, artefact_at, require_unchanged
from export.metadata import PROGRAM_METADATA, read_metadata
from export.onnx_metadata import onnx_metadata
from export.proof.report import proof_text
from export.sessions.files import open_onnx
from export.sessions.openvino import MODEL, OpenVinoSession, openvino_metadata
from export.stages.manifest import MANIFEST, read_manifest, verified
from export.tensorrt.kit import KIT_FILE, read_kit
from export.tensorrt.preflight import check_engine


@dataclass(frozen=True)
class Checked:
    """One artefact: its metadata, what proved it (None if nothing beside it tells), and what is worth knowing."""

    path: Path
    format: str
    metadata: dict[str, Any]
    proof: dict[str, Any] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "metadata": self.metadata,
            "proof": self.proof,
            "notes": list(self.notes),
        }


def check(path: Path) -> Checked:
    """Return what the artefact `path` is; the main file of a folder of OpenVINO or of stages stands for the folder.

    Raises UsageError if it is damaged, is not the file that was proved, is of a kind that bmtas does not write, or its proof is
    damaged or of a network that was trained anew since; EnvironmentProblem if its runtime is missing or an engine was built
    for another machine.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist; `bmtas export` writes it")
    path = artefact_at(path)
    kind, reader = _reader(path)
    # The hash comes first: a runtime that is handed a damaged file says little, or worse.
    proof = require_unchanged(path)
    metadata = reader(path)
    if kind in ("tensorrt", "kit"):
        told = metadata.pop("parity", None)
        proof = told if proof is None else proof
    proof_text(proof)  # a damaged one is refused here, and need not be looked at by whoever shows it
    notes = [] if proof is not None else [f"nothing beside it says how it was proved; copy {PROOFS} along with it"]
    if kind in ("onnx", "openvino"):
        notes += _load(path, kind)
    if not metadata:
        notes.append("no metadata of bmtas: a file of other origin")
    if kind == "onnx":
        notes += _lint(path, metadata)
    return Checked(path, kind, metadata, proof, tuple(notes))


def _reader(path: Path) -> tuple[str, Callable[[Path], dict[str, Any]]]:
    """Return the format of an artefact, by its name, and what reads its metadata."""
    if path.is_dir():
        if (path / MANIFEST).exists():
            return "stages", _stages
        if (path / KIT_FILE).exists():
            return "kit", _kit
        if (path / MODEL).exists() or path.suffix == ".openvino":
            return "openvino", openvino_metadata
        raise UsageError(
            f"{path} holds neither {MANIFEST} (stages), {MODEL} (OpenVINO) nor {KIT_FILE} (a kit for TensorRT); of a run, name the files "
            "in networks/found"
        )
    readers: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
        ".onnx": ("onnx", onnx_metadata),
        ".xml": ("openvino", openvino_metadata),
        ".engine": ("tensorrt", _engine),
        ".pt2": ("pt2", program_metadata),
    }
    if path.suffix not in readers:
        raise UsageError(
            f"{path}: {path.suffix or 'a file without suffix'} is no format that bmtas writes; known: {', '.join(readers)}, and folders of "
            "stages and of OpenVINO"
        )
    return readers[path.suffix]


def _stages(folder: Path) -> dict[str, Any]:
    """Return the metadata of a split network whose files are all there and are those of its manifest."""
    manifest = read_manifest(folder)
    for stage in manifest.stages:
        verified(folder, stage)
    return manifest.metadata


def _kit(folder: Path) -> dict[str, Any]:
    """Return the metadata of a kit whose files are all those that it lists, and what proved them where it was made."""
    kit = read_kit(folder)
    precisions = list(kit.networks)
    metadata = onnx_metadata(folder / kit.networks[precisions[0]].file)
    return {**metadata, "precision": "+".join(precisions), "parity": kit.host.get(precisions[0])}


def _engine(path: Path) -> dict[str, Any]:
    sidecar = check_engine(path)
    return {**sidecar.metadata, "precision": sidecar.precision, "parity": sidecar.parity}


def program_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a `.pt2` program, read out of the archive without loading the program. Raises UsageError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{PROGRAM_METADATA}")]
            if not names:
                raise UsageError(
                    f"{path} holds no {PROGRAM_METADATA}: it was not written by `bmtas export`, or is damaged; export it again"
                )
            broken = archive.testzip()
            if broken is not None:
                raise UsageError(f"{path} is damaged at {broken}; export it again")
            return read_metadata(json.loads(archive.read(names[0])), str(path))
    except (zipfile.BadZipFile, json.JSONDecodeError, OSError) as error:
        raise UsageError(f"{path} is no exported program, or is damaged: {error}; export it again") from None


def _load(path: Path, kind: str) -> list[str]:
    """Load a file in its runtime; return why this machine cannot run it, if so. Raises UsageError if it is damaged."""
    try:
        if kind == "onnx":
            open_onnx(path)
        else:
            OpenVinoSession(path)
    except (BuildError, EnvironmentProblem) as error:
        return [f"it cannot be run on this machine: {error}"]
    return []


def _lint(path: Path, metadata: dict[str, Any]) -> list[str]:
    if importlib.util.find_spec("onnx") is None:
        return []  # a device: what was linted when the file was written stands
    import onnx

    from export.lint import lint, summary

    dynamic = any(isinstance(n, str) for n in metadata.get("input", {}).get("shape", ()))
    return summary(lint(onnx.load(str(path), load_external_data=False), dynamic=dynamic))

"""The exported files of a network and their proofs: `parity.json` beside them says what each file is. Needs no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.extras import require
from bmtas.files import cache_folder, file_hash, read_json, write_json

SCHEMA_VERSION = 2
PROOFS = "parity.json"
WEIGHTS = "weights.pt"
"""What a run calls the trained weights, in the folder in which the exported files lie."""
_FOLDERS = {"model.xml": ".openvino", "manifest.json": ".stages"}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hexadecimal."""
    if path.is_dir():
        listed = [
            f"{digest(file)} {file.relative_to(path).as_posix()}" for file in sorted(path.rglob("*")) if file.is_file()
        ]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return file_hash(path)


def artefact_at(path: Path) -> Path:
    """Return the artefact that is meant by `path`: for the main file of a folder of OpenVINO or of stages, that folder."""
    if not path.name:  # `.`: the proof stands under the folder's name
        return path.absolute()
    folder = path.parent if path.parent.name else path.absolute().parent
    return folder if folder.suffix == _FOLDERS.get(path.name) else path


def record(path: Path, entry: Mapping[str, Any]) -> None:
    """Write what the artefact `path` is, and how it was proved, into the `parity.json` beside it.

    Exports that record in the same folder at the same time wait for each other. With `weights_sha256` the proof holds only as
    long as the weights beside it are those. Numbers that are not finite are written as null. Raises UsageError if the
    `parity.json` that is there is damaged, EnvironmentProblem if it cannot be locked.
    """
    folder = path.parent
    # Before waiting for the others: the hash is that of what was proved, whoever writes the same file meanwhile.
    found = digest(path)
    with _alone(folder):
        # Files that the user has deleted since need no proof.
        known = {
            name: proof for name, proof in read_proofs(folder).items() if (folder / name).exists() and name != path.name
        }
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        proof = _strict({"sha256": found, "date": now, **entry})
        write_json(folder / PROOFS, {"schema_version": SCHEMA_VERSION, "artefacts": {**known, path.name: proof}})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the proofs in `folder`, which lies in the cache so that runs hold results alone."""
    filelock = require("filelock", "host")
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    place = cache_folder() / "locks" / f"{name}.lock"
    lock = filelock.FileLock(str(place))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise EnvironmentProblem(
            f"{place} cannot be locked ({error}); set BMTAS_CACHE to a folder of your own on a local disk"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _strict(value: Any) -> Any:
    """Return `value` as strict JSON can hold it: null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_proofs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the proofs in `folder` by file name; none where there is no `parity.json`, or one of an earlier version.

    Raises UsageError if it is damaged.
    """
    path = folder / PROOFS
    if not path.exists():
        return {}
    artefacts = read_json(path, SCHEMA_VERSION).get("artefacts", {})
    if not isinstance(artefacts, dict):
        raise UsageError(f"{path} is damaged: `artefacts` is no object; delete it and export again")
    for name, proof in artefacts.items():
        if not isinstance(proof, dict):
            raise UsageError(f"{path} is damaged: what it says of {name!r} is no object; delete it and export again")
    return artefacts


def require_proof(path: Path) -> dict[str, Any]:
    """Return the proof of an artefact.

    Raises UsageError if there is none, the file has changed since it was proved, or the network was trained anew since.
    """
    proof = read_proofs(path.parent).get(path.name)
    if proof is None:
        raise UsageError(f"{path.parent / PROOFS} says nothing of {path.name}: it was not proved; export it again")
    return _held(path, proof)


def require_unchanged(path: Path) -> dict[str, Any] | None:
    """Return the proof of an artefact, None where nothing beside it knows it, as with a copy on a device.

    Raises UsageError as `require_proof` does if it is known and no longer what was proved.
    """
    proof = read_proofs(path.parent).get(path.name)
    return None if proof is None else _held(path, proof)


def _held(path: Path, proof: dict[str, Any]) -> dict[str, Any]:
    if proof.get("sha256") != digest(path):
        raise UsageError(f"{path} is not the file that was proved (its SHA-256 differs); export it again")
    weights = path.parent / WEIGHTS
    if "weights_sha256" in proof and weights.is_file() and proof["weights_sha256"] != digest(weights):
        raise UsageError(f"{path}: the network was trained anew since; export it again")
    return dict(proof)

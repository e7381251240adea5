"""The exported files of a network and their proofs: `parity.json` beside them says what each file is. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bmtas.errors import UsageError
from bmtas.files import read_json, write_json

SCHEMA_VERSION = 2
PROOFS = "parity.json"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hexadecimal."""
    if path.is_dir():
        listed = [
            f"{digest(file)} {file.relative_to(path).as_posix()}" for file in sorted(path.rglob("*")) if file.is_file()
        ]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow_digest(path)
        )


def _slow_digest(path: Path) -> str:
    """Return the SHA-256 of a file where Python (3.10) cannot do it in one call."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(path: Path, entry: Mapping[str, Any]) -> None:
    """Write what the artefact `path` is, and how it was proved, into the `parity.json` beside it."""
    proofs = path.parent / PROOFS
    known = read_proofs(path.parent)
    # Files that the user has deleted since need no proof.
    known = {name: proof for name, proof in known.items() if (path.parent / name).exists() and name != path.name}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    proof = {"sha256": digest(path), "date": now, **entry}
    write_json(proofs, {"schema_version": SCHEMA_VERSION, "artefacts": {**known, path.name: proof}})


def read_proofs(folder: Path) -> dict[str, Any]:
    """Return the proofs in `folder` by file name; none where there is no `parity.json`, or one of an earlier version."""
    path = folder / PROOFS
    if not path.exists():
        return {}
    artefacts = read_json(path, SCHEMA_VERSION).get("artefacts", {})
    return dict(artefacts) if isinstance(artefacts, dict) else {}


def require_proof(path: Path) -> dict[str, Any]:
    """Return the proof of an artefact. Raises UsageError if there is none, or the file has changed since it was proved."""
    proof = read_proofs(path.parent).get(path.name)
    if proof is None:
        raise UsageError(f"{path.parent / PROOFS} says nothing of {path.name}: it was not proved; export it again")
    if proof.get("sha256") != digest(path):
        raise UsageError(f"{path} is not the file that was proved (its SHA-256 differs); export it again")
    return dict(proof)

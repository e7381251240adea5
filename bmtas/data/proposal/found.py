"""What a proposal is made of: decisions, each with what speaks for it and what against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmtas.data.proposal.layout import Stream
from bmtas.tasks import TaskKind

SCHEMA_VERSION = 1
"""Schema of the JSON form."""


@dataclass(frozen=True)
class Line:
    """A key of the manifest: its value as YAML, why, and whether it is an alternative, which is written as a comment."""

    key: str
    value: str
    why: str = ""
    alternative: bool = False


@dataclass(frozen=True)
class Meaning:
    """What the files of a task are taken for.

    Attributes:
        kind: the kind of the task.
        lines: its other keys, and alternatives.
        evidence: what speaks for the kind.
        doubts: what may be wrong about it.
    """

    kind: TaskKind
    lines: tuple[Line, ...]
    evidence: str
    doubts: tuple[str, ...] = ()

    def value(self, key: str) -> str | None:
        """Return the value of a key as YAML, None where it is left to the default."""
        return next((line.value for line in self.lines if line.key == key and not line.alternative), None)


@dataclass(frozen=True)
class Refused:
    """Files that pair with images and cannot be a task as they are: what was seen, and the way out."""

    title: str
    found: str
    remedy: str


@dataclass(frozen=True)
class ProposedTask:
    """A task: its name, where its labels are, what they mean, and how many images have one.

    `stream` is None where a table of classes (`file`) holds the labels.
    """

    name: str
    meaning: Meaning
    stream: Stream | None
    file: Path | None
    labels: int


@dataclass(frozen=True)
class Splits:
    """How the images are divided.

    Attributes:
        lists: the ids of each split, in the order of the manifest; empty where `fraction` decides.
        files: the list that the folder itself has, for the splits where it can be used as it is.
        fraction: share of the images for validation.
        why: what speaks for it.
        doubts: what may be wrong about it.
    """

    lists: Mapping[str, tuple[str, ...]]
    files: Mapping[str, Path]
    fraction: float | None
    why: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A manifest that could describe a folder.

    Attributes:
        folder: the folder that was looked at.
        root: the folder to which the streams' paths are relative.
        name: for the data set.
        parted: whether folders stand before the role in the paths, so that links are needed.
        images: the images, by id; `usable` are the ids of those with a label.
        size: (height, width) to work at, and why.
        tasks, splits: what was found.
        refused: files that cannot be a task as they are.
        remarks: what else a user should know: files that pair with nothing, files that were not read.
    """

    folder: Path
    root: Path
    name: str
    parted: bool
    images: Stream
    usable: tuple[str, ...]
    size: tuple[int, int]
    size_why: str
    tasks: tuple[ProposedTask, ...]
    splits: Splits
    refused: tuple[Refused, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the proposal as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "folder": str(self.folder),
            "name": self.name,
            "images": len(self.images.files),
            "usable": len(self.usable),
            "size": list(self.size),
            "size_evidence": self.size_why,
            "tasks": [
                {
                    "name": task.name,
                    "kind": task.meaning.kind.value,
                    "place": task.stream.title if task.stream else str(task.file),
                    "labels": task.labels,
                    "keys": {line.key: line.value for line in task.meaning.lines if not line.alternative},
                    "alternatives": {line.key: line.value for line in task.meaning.lines if line.alternative},
                    "evidence": task.meaning.evidence,
                    "doubts": list(task.meaning.doubts),
                }
                for task in self.tasks
            ],
            "splits": {
                "fraction": self.splits.fraction,
                "images": {split: len(ids) for split, ids in self.splits.lists.items()},
                "evidence": self.splits.why,
                "doubts": list(self.splits.doubts),
            },
            "refused": [{"place": r.title, "found": r.found, "remedy": r.remedy} for r in self.refused],
            "remarks": list(self.remarks),
        }

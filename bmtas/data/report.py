"""What a data set holds, what is missing and what is wrong in it: a report for people and as JSON. Nothing is written."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmtas.data.absent import Seen
from bmtas.data.check import causes, check, to_check
from bmtas.data.chosen import labelled, splits_of, spread
from bmtas.data.downloads.base import Download
from bmtas.data.folder import FolderDataset
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import UsageError
from bmtas.progress import Progress, Silent
from bmtas.tasks import Task, select_tasks

SCHEMA_VERSION = 1
"""Schema of the JSON form."""

SAMPLED = 20
"""Images of each split that are read where not all are."""

_TRIED = 8  # images of a split among which the one with the most labels is drawn
_LONGEST_SIDE = 512  # of an image in a picture


@dataclass(frozen=True)
class SplitReport:
    """A split: how many images it has here, and in the published data set where that is known."""

    name: str
    images: int
    published: int | None

    @property
    def difference(self) -> int | None:
        """Images here less those published."""
        return None if self.published is None else self.images - self.published


@dataclass(frozen=True)
class TaskReport:
    """A task, how many of all `images` have a label of it, and whether its labels are left out."""

    task: Task
    labels: int
    images: int
    left_out: bool = False


@dataclass(frozen=True)
class Problem:
    """What is wrong, as it was met first, and in how many files."""

    message: str
    files: int


@dataclass(frozen=True)
class DataReport:
    """What `inspect` has found.

    Attributes:
        name, variant: the data set, and in which form it is here.
        root: the folder in which it stands; None for generated data.
        remarks: what a user of this variant should know, and which classes no label that was read holds.
        size: (height, width) to work at.
        splits, tasks: what is there.
        missing: the files that should be there and are not, but for labels of tasks that are left out.
        read: how many images were read with all their labels of the tasks that are not left out.
        problems: what was wrong in those, by cause.
    """

    name: str
    variant: str
    root: Path | None
    remarks: tuple[str, ...]
    size: tuple[int, int]
    splits: tuple[SplitReport, ...]
    tasks: tuple[TaskReport, ...]
    missing: tuple[Path, ...]
    read: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, no split has fewer images than published, and nothing that was read is wrong."""
        short = any((split.difference or 0) < 0 for split in self.splits)
        return not (self.missing or self.problems or short)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "ok": self.ok,
            "name": self.name,
            "variant": self.variant,
            "root": None if self.root is None else str(self.root),
            "remarks": list(self.remarks),
            "size": list(self.size),
            "splits": {
                s.name: {"images": s.images, "published": s.published, "difference": s.difference} for s in self.splits
            },
            "tasks": [
                {**t.task.to_json(), "labels": t.labels, "images": t.images, "left_out": t.left_out} for t in self.tasks
            ],
            "missing": [str(path) for path in self.missing],
            "read": self.read,
            "problems": [{"message": p.message, "files": p.files} for p in self.problems],
        }


def read_tasks(dataset: Dataset, names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the tasks whose labels are read: `names`, or else the data set's default ones, or else all.

    Raises UsageError for unknown names.
    """
    default = getattr(dataset, "default_tasks", None)
    return [task.name for task in select_tasks(dataset.tasks, list(names or default or ()) or None)]


def inspect(
    dataset: Dataset,
    *,
    tasks: Sequence[str] | None = None,
    per_split: int | None = SAMPLED,
    progress: Progress | None = None,
) -> DataReport:
    """Return what `dataset` holds; `per_split` images of each split, spread over it, are read (None: all).

    Labels are read of the tasks that `read_tasks` chooses by `tasks`. Raises UsageError for unknown names.
    """
    names = read_tasks(dataset, tasks)
    progress = progress or Silent()
    splits = splits_of(dataset)
    images = {split: len(dataset.ids(split)) for split in splits}
    layout = dataset.layout if isinstance(dataset, Download) else None
    expected = layout.expected if layout else {}
    total = sum(images.values())
    read = len(to_check(dataset, names, per_split))
    progress.start("read images", read)
    seen = Seen([task for task in dataset.tasks if task.name in names])
    problems = list(check(dataset, tasks=names, limit=per_split, tick=progress.advance, look=seen.add))
    whole = read == sum(len(labelled(dataset, split, names)) for split in splits)
    return DataReport(
        name=dataset.name,
        variant=_variant(dataset),
        root=_root(dataset),
        remarks=(*(layout.remarks if layout else ()), *seen.remarks(whole=per_split is None or whole)),
        size=dataset.size,
        splits=tuple(SplitReport(split, count, expected.get(split)) for split, count in images.items()),
        tasks=tuple(
            TaskReport(task, _label_count(dataset, task.name, total), total, left_out=task.name not in names)
            for task in dataset.tasks
        ),
        missing=tuple(dataset.missing(names)) if isinstance(dataset, Download) else (),
        read=read,
        problems=tuple(Problem(message, count) for message, count in causes(problems)),
    )


def holds(dataset: Dataset, path: Path, given: str | None = None) -> bool:
    """Return whether a file `path` would lie in a folder of the data set, or in the one that the user has `given`."""
    folders = list(dataset.folders) if isinstance(dataset, FolderDataset) else []
    if isinstance(dataset, Download):
        folders.append(dataset.layout.root)
    if folders and given is not None:  # may be around the data set's own, and hold what else was downloaded with it
        folders.append(Path(given).expanduser())
    file = path.expanduser().resolve()
    return any(file.is_relative_to(folder.resolve()) for folder in folders)


def place_of(dataset: Dataset, sample_id: str) -> tuple[str, int]:
    """Return the split and the index of an id. Raises UsageError with the nearest one."""
    for split in splits_of(dataset):
        ids = dataset.ids(split)
        if sample_id in ids:
            return split, list(ids).index(sample_id)
    ids = [i for split in splits_of(dataset) for i in dataset.ids(split)]
    close = difflib.get_close_matches(sample_id, ids, n=1, cutoff=0.5) or ids[:1]
    raise UsageError(f"{dataset.name} has no image {sample_id!r}; ids look like {close[0]!r}")


def pick_sample(dataset: Dataset, sample_id: str | None = None, tasks: Sequence[str] | None = None) -> Sample:
    """Return the image called `sample_id`, or else one with as many labels as can be, at a size fit for a picture.

    It has labels of the tasks that `read_tasks` chooses by `tasks`. Raises UsageError if there is no such image or task, or
    if none of the images that were tried can be read.
    """
    names = read_tasks(dataset, tasks)
    shrink = min(1.0, _LONGEST_SIDE / max(dataset.size))
    size = (max(8, round(dataset.size[0] * shrink)), max(8, round(dataset.size[1] * shrink)))
    if sample_id is not None:
        split, index = place_of(dataset, sample_id)
        return dataset.load(split, index, size=size, tasks=names)
    best: Sample | None = None
    failure: UsageError | None = None
    for split in splits_of(dataset):
        indices = labelled(dataset, split, names)
        for i in spread(len(indices), _TRIED):
            try:
                sample = dataset.load(split, indices[i], size=size, tasks=names)
            except UsageError as error:
                failure = error
                continue
            if best is None or len(sample.labels) > len(best.labels):
                best = sample
            if len(best.labels) == len(names):
                return best
    if best is None:
        raise failure or UsageError(
            f"{dataset.name} has no image with a label of {', '.join(names)}; complete the data"
        )
    return best


def _variant(dataset: Dataset) -> str:
    if isinstance(dataset, Download):
        return dataset.layout.variant
    return f"own images, described by {dataset.manifest.path}" if isinstance(dataset, FolderDataset) else "generated"


def _root(dataset: Dataset) -> Path | None:
    if isinstance(dataset, Download):
        return dataset.layout.root
    return dataset.manifest.root if isinstance(dataset, FolderDataset) else None


def _label_count(dataset: Dataset, task: str, total: int) -> int:
    """Return how many images have a label of a task; in generated data all have."""
    return dataset.label_count(task) if isinstance(dataset, (Download, FolderDataset)) else total

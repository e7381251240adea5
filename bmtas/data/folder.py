"""A folder of images and labels as a data set, described by a manifest (`bmtas.data.manifest`).

Opening lists folders and reads split files, CSV files and one image header; pixels are read by `load` only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.folder_splits import read_splits, some
from bmtas.data.labels import read_csv, read_label, resize_nearest
from bmtas.data.manifest import ImagesSpec, Manifest, TaskSpec, read_manifest
from bmtas.data.protocol import Sample
from bmtas.data.stored import image_size, read_image
from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task


def open_folder(path: str | Path) -> FolderDataset:
    """Open the data set that the manifest at `path` describes.

    Raises UsageError where the manifest, a folder, a split or a file that it names breaks a rule, and
    EnvironmentProblem where Pillow or PyYAML is not installed.
    """
    return FolderDataset(read_manifest(Path(path)))


class FolderDataset:
    """Images and labels in a folder; implements `bmtas.data.protocol.Dataset`.

    An id is the path of an image below the images folder without its prefix and suffix: `frame1`, `oslo/frame1`.
    Holds names only, so copies for worker processes are cheap.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Find the files that `manifest` describes. Raises UsageError where some are missing."""
        self.manifest = manifest
        spec = manifest.spec
        self._tasks = manifest.tasks()
        self._image_folder = manifest.resolve(spec.images.folder, "images", "folder", folder=True)
        self._images = _index(self._image_folder, spec.images)
        if not self._images:
            raise UsageError(
                f"{manifest.where('images', 'folder')}: no file in {self._image_folder} {_called(spec.images)}; "
                "correct 'folder', 'prefix' or 'suffix'"
            )
        self._splits = read_splits(manifest, self._images)
        self._labels = {name: _find_labels(manifest, name, task) for name, task in spec.tasks.items()}
        self._check_labels()
        self._size = spec.size or image_size(self._image_path(self._splits["train"][0]))

    @property
    def name(self) -> str:
        """Name of the manifest or what it gives as `name`."""
        return self.manifest.name

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in the order of the manifest."""
        return self._tasks

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as the manifest gives it, else that of the first training image."""
        return self._size

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; `train` and `val` are among them."""
        return tuple(self._splits)

    def label_count(self, task: str) -> int:
        """Return how many of the images in the splits have a label of `task`."""
        return sum(i in self._labels[task] for ids in self._splits.values() for i in ids)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the data: that of the manifest, its `root`, and those of images and labels."""
        spec, root = self.manifest.spec, self.manifest.root
        named = [spec.images.folder, *(task.folder for task in spec.tasks.values() if task.folder is not None)]
        return (self.manifest.path.parent, root, *(root / Path(name).expanduser() for name in named))

    def labelled(self, split: str, tasks: Sequence[str]) -> list[int]:
        """Return the indices in `split` of the images that have a label of one of `tasks`. Raises UsageError for unknown names."""
        for name in tasks:
            if name not in self._labels:
                raise UsageError(f"unknown task {name!r}; {nearest(name, self._labels)}")
        return [n for n, i in enumerate(self.ids(split)) if any(i in self._labels[name] for name in tasks)]

    def ids(self, split: str) -> tuple[str, ...]:
        """Return the ids of `split`, in the order of its list. Raises UsageError for an unknown split."""
        if split not in self._splits:
            raise UsageError(f"unknown split {split!r}; {nearest(split, self._splits)}")
        return self._splits[split]

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Return image `index` of `split` at `size` (height, width) with those labels of `tasks` that it has.

        Raises UsageError where a file cannot be read, has another size than its image or holds a wrong value,
        and for unknown names; IndexError beyond the split's end.
        """
        sample_id = self.ids(split)[index]
        path = self._image_path(sample_id)
        image, own = read_image(path, size)
        if self.manifest.spec.size is None and own != self.size:
            first = self._image_path(self._splits["train"][0])
            raise UsageError(
                f"{path} is {_pixels(own)} but {first} is {_pixels(self.size)}; images of different sizes "
                f"need the size to work at: add 'size: [height, width]' to {self.manifest.path}"
            )
        labels: dict[str, npt.NDArray[np.generic]] = {}
        for name in tasks:
            if name not in self._labels:
                raise UsageError(f"unknown task {name!r}; {nearest(name, self._labels)}")
            found = self._labels[name].get(sample_id)
            if isinstance(found, int):
                labels[name] = np.array(found, dtype=np.int64)
            elif found is not None:
                labels[name] = self._load_label(name, found, path, own, size)
        return Sample(sample_id, image, labels)

    def fingerprint(self) -> str:
        """Return a hash of the tasks, the size, and the ids with the names and sizes of the files used.

        Places and times are left out: a copy of the folder, whatever its name, has the same hash.
        """
        spec = self.manifest.spec
        places = {"folder", "file", "prefix", "suffix"}
        tasks = [
            {"task": task.to_json(), "read_as": s.read_as, **s.model_dump(mode="json", exclude=places)}
            for task, s in zip(self._tasks, spec.tasks.values(), strict=True)
        ]
        splits = {split: [self._describe_files(i) for i in ids] for split, ids in self._splits.items()}
        text = json.dumps({"size": self.size, "tasks": tasks, "splits": splits}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _image_path(self, sample_id: str) -> Path:
        return self._image_folder / self._images[sample_id]

    def _load_label(
        self, name: str, path: Path, image_path: Path, image_size: tuple[int, int], size: tuple[int, int]
    ) -> npt.NDArray[np.generic]:
        label = read_label(path, name, self.manifest.spec.tasks[name])
        own = (label.shape[0], label.shape[1])
        if own != image_size:
            raise UsageError(
                f"{path} is {_pixels(own)} but its image {image_path} is {_pixels(image_size)}; a label "
                "has the size of its image: resize the label (nearest neighbour) or replace the wrong file"
            )
        return resize_nearest(label, size)

    def _describe_files(self, sample_id: str) -> list[Any]:
        """Return the id, then for the image and each label its name and size in bytes (or its class)."""
        files: list[Any] = [sample_id, self._images[sample_id], self._image_path(sample_id).stat().st_size]
        for name, found in self._labels.items():
            label = found.get(sample_id)
            files.append([name, [label.name, label.stat().st_size] if isinstance(label, Path) else label])
        return files

    def _check_labels(self) -> None:
        """Check that each task has labels to learn from, and each image at least one. Raises UsageError."""
        for name, labels in self._labels.items():
            if not any(i in labels for i in self._splits["train"]):
                spec = self.manifest.spec.tasks[name]
                what = f"file that {_called(spec)}" if spec.folder else "line"
                where = self.manifest.where("tasks", name, "folder" if spec.folder else "file")
                raise UsageError(
                    f"{where}: {spec.folder or spec.file} holds no label for any image of the split 'train': "
                    f"no {what} for {some(self._splits['train'])}; correct the place, 'prefix', "
                    "'suffix' or 'encoding', or remove the task"
                )
        for split, ids in self._splits.items():
            bare = [i for i in ids if not any(i in labels for labels in self._labels.values())]
            if bare:
                raise UsageError(
                    f"{self.manifest.where('splits', split)}: {len(bare)} of {len(ids)} images have no label "
                    f"of any task: {some(bare)}; add their labels or drop their ids"
                )


def _called(spec: ImagesSpec | TaskSpec) -> str:
    """Return in words how files are called that are read."""
    begins = f"begins with {spec.prefix} and " if spec.prefix else ""
    return f"{begins}ends in {', '.join(spec.suffixes)}"


def _index(folder: Path, spec: ImagesSpec | TaskSpec) -> dict[str, str]:
    """Return the id and the path below `folder` of each file whose name begins and ends as `spec` has it, sorted by id.

    Where an id has several files, the one whose suffix comes first is taken. Hidden files and folders are
    skipped: editors and file managers leave copies of images there.
    """
    found: dict[str, tuple[int, str]] = {}
    prefix, suffixes = spec.prefix or "", spec.suffixes
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        for name in names:
            rank = next((r for r, end in enumerate(suffixes) if name.lower().endswith(end.lower())), None)
            if rank is None or name.startswith(".") or not name.startswith(prefix):
                continue
            stem = name[len(prefix) : -len(suffixes[rank])]
            if not stem:  # nothing is left, or prefix and suffix overlap
                continue
            key = (below / stem).as_posix()
            candidate = (rank, (below / name).as_posix())
            found[key] = min(candidate, found.get(key, candidate))
    return {key: found[key][1] for key in sorted(found)}


def _find_labels(manifest: Manifest, name: str, spec: TaskSpec) -> Mapping[str, Path | int]:
    """Return for each id that has a label of the task its file, or its class."""
    if spec.file is not None:
        return read_csv(manifest.resolve(spec.file, "tasks", name, "file", folder=False), name, spec.classes)
    folder = manifest.resolve(spec.folder or "", "tasks", name, "folder", folder=True)
    return {key: folder / path for key, path in _index(folder, spec).items()}


def _pixels(size: tuple[int, int]) -> str:
    """Return (height, width) in words."""
    return f"{size[0]} high and {size[1]} wide"

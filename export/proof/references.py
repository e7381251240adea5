"""What PyTorch gave for some images, kept in a file, so that a machine without PyTorch can prove what it builds. Needs no torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.errors import UsageError
from bmtas.files import atomic_path
from bmtas.tasks import Task
from export.proof.compare import Outputs, Runs
from export.sessions.protocol import Array

SCHEMA_VERSION = 1
FILE_NAME = "references.npz"
"""The name under which a kit and `bmtas build` look for references."""
_ABOUT = "about"
_OUTPUT = "output."


@dataclass(frozen=True)
class References:
    """N images as the exported network takes them, (N, ...), and PyTorch's outputs by task, (N, ...) each, in FP32.

    `final` says that the outputs are final predictions rather than raw ones. `made_by` tells what computed them.
    """

    images: Array
    outputs: Mapping[str, Array]
    tasks: tuple[Task, ...]
    final: bool
    made_by: str

    def __post_init__(self) -> None:
        """Check names, types and shapes. Raises UsageError."""
        if self.images.ndim != 4 or not len(self.images) or self.images.dtype not in (np.float32, np.uint8):
            raise UsageError(
                f"references: images of shape {self.images.shape} and type {self.images.dtype}; expected at least one image, (N, 3, H, W) "
                "float32 or (N, H, W, 3) uint8"
            )
        names = [task.name for task in self.tasks]
        if not names or sorted(names) != sorted(self.outputs) or len(set(names)) < len(names):
            raise UsageError(
                f"references: outputs of {', '.join(self.outputs) or 'no task'} for the tasks {', '.join(names)}; "
                "each task needs its output, and no other may be there"
            )
        for task in self.tasks:
            self._check(task, self.outputs[task.name])

    def _check(self, task: Task, output: Array) -> None:
        ids = self.final and task.has_classes
        channels = () if ids else (task.channels,)
        ndim = 1 + len(channels) + (2 if task.dense else 0)
        if (
            output.shape[:1] != self.images.shape[:1]
            or output.ndim != ndim
            or output.shape[1 : 1 + len(channels)] != channels
        ):
            wanted = ["N", *(str(c) for c in channels), *(("H", "W") if task.dense else ())]
            raise UsageError(
                f"references: the output of {task.name!r} has shape {output.shape}; expected ({', '.join(wanted)}) with N = "
                f"{len(self.images)}"
            )
        if output.dtype.kind != ("i" if ids else "f") and not (ids and output.dtype.kind == "u"):
            raise UsageError(
                f"references: the output of {task.name!r} is {output.dtype}, expected {'class ids' if ids else 'floats'}"
            )
        if not np.isfinite(output).all():
            raise UsageError(
                f"references: the output of {task.name!r} holds values that are not finite; the network itself is broken"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def pairs(self, exported: Runs) -> Iterator[tuple[Outputs, Outputs]]:
        """Yield PyTorch's outputs and those of `exported` for each image (N = 1), as `export.proof.compare` takes them."""
        for i in range(len(self)):
            yield {name: values[i : i + 1] for name, values in self.outputs.items()}, exported(self.images[i : i + 1])

    def save(self, path: Path) -> None:
        """Write the references to `path`, an .npz file, atomically."""
        about = {
            "schema_version": SCHEMA_VERSION,
            "tasks": [task.to_json() for task in self.tasks],
            "final": self.final,
            "made_by": self.made_by,
        }
        arrays: dict[str, Any] = {f"{_OUTPUT}{name}": values for name, values in self.outputs.items()}
        arrays["images"] = self.images
        arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> References:
        """Read what `save` wrote. Raises UsageError for anything else; nothing in the file is ever executed."""
        if not path.is_file():
            raise UsageError(
                f"{path} does not exist; `bmtas export --remote USER@HOST` writes references for another machine"
            )
        try:
            with (
                path.open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):  # NumPy leaves damaged files open
                about = json.loads(stored[_ABOUT].tobytes().decode())
                if about["schema_version"] > SCHEMA_VERSION:
                    raise UsageError(
                        f"{path} follows schema {about['schema_version']}, this version of bmtas knows up to {SCHEMA_VERSION}; upgrade bmtas"
                    )
                tasks = tuple(Task.from_json(task) for task in about["tasks"])
                outputs = {task.name: stored[f"{_OUTPUT}{task.name}"] for task in tasks}
                return cls(stored["images"], outputs, tasks, bool(about["final"]), str(about["made_by"]))
        except (KeyError, TypeError, ValueError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} does not hold references of bmtas ({type(error).__name__}: {error}); it was changed or cut short, export again"
            ) from None


def collect(
    reference: Runs, images: Iterable[Array], tasks: Sequence[Task], *, final: bool, made_by: str
) -> References:
    """Return what `reference` gives for each of `images` (N = 1), all of one size. Raises UsageError without an image."""
    feeds: list[Array] = []
    outputs: dict[str, list[Array]] = {task.name: [] for task in tasks}
    for image in images:
        given = reference(image)
        feeds.append(image)
        for name, values in outputs.items():
            values.append(np.asarray(given[name]))
    if len({image.shape for image in feeds}) != 1:
        raise UsageError(
            f"references are made of images of one size, at least one; found {sorted({i.shape for i in feeds})}"
        )
    return References(
        np.concatenate(feeds), {n: np.concatenate(v) for n, v in outputs.items()}, tuple(tasks), final, made_by
    )

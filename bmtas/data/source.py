"""From what a user types to a data set: the name of a generator, a manifest, or a folder that holds one."""

from __future__ import annotations

import shlex
from pathlib import Path

from bmtas.data.protocol import Dataset
from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, select_tasks

NAMES = ("scenes", "planted")
"""Data sets that need no file."""

MANIFEST_NAME = "manifest.yaml"
"""What a folder's own manifest is called."""

_HOW_TO = f"""\
To use images of your own, describe them in a short YAML file, such as {MANIFEST_NAME} in their folder:
  images: {{folder: images}}
  tasks:
    semseg: {{kind: segmentation, folder: semseg, classes: [road, car]}}
  splits: {{train: train.txt, val: val.txt}}
Every key is explained in examples/own-data.yaml."""


DEFAULT_TASKS = {"scenes": ["semseg", "parts", "saliency", "normals", "edge"]}
"""Tasks taken where none are named, if not all: of the generator those of PASCAL-Context."""


def canonical(spec: str) -> str:
    """Return `spec` in the form that means the same from any folder: a generator's name, or an absolute path."""
    return spec if spec in NAMES else str(Path(spec).expanduser().resolve())


def open_with_tasks(spec: str, names: list[str] | None) -> tuple[Dataset, tuple[Task, ...]]:
    """Open the data set called `spec` and choose its tasks: `names`, or else the default ones, or else all.

    Raises what `open_dataset` raises, and UsageError for unknown tasks.
    """
    dataset = open_dataset(spec)
    default = DEFAULT_TASKS.get(spec) or getattr(dataset, "default_tasks", None)
    return dataset, select_tasks(dataset.tasks, names or (list(default) if default else None))


def open_dataset(spec: str) -> Dataset:
    """Open the data set called `spec`: `scenes`, `planted`, a manifest (.yaml, .yml), or a folder.

    A folder holds a manifest.yaml, or one of the community's data sets as it is downloaded.

    Raises UsageError (for an unknown name with the nearest known one), and EnvironmentProblem where a package
    is not installed.
    """
    path = Path(spec).expanduser()
    if spec == "scenes":
        from bmtas.data.scenes import Scenes

        return Scenes()
    if spec == "planted":
        from bmtas.data.planted import Planted

        return Planted()
    if path.suffix.lower() in (".yaml", ".yml"):
        from bmtas.data.folder import open_folder

        return open_folder(path)
    if (path / MANIFEST_NAME).is_file():
        return open_dataset(str(path / MANIFEST_NAME))
    if path.is_dir():
        from bmtas.data.downloads.detect import EXPECTED, open_download

        download = open_download(path.resolve())
        if download is not None:
            return download
        raise UsageError(
            f"the folder {spec} holds no {MANIFEST_NAME} and none of the data sets that are known by their files; "
            f"`bmtas init {shlex.quote(spec)}` proposes a manifest.\nKnown by their files are:\n{EXPECTED}\n{_HOW_TO}"
        )
    if "/" in spec or "\\" in spec:
        raise UsageError(f"there is no file or folder {spec}; check the path")
    known = nearest(spec, NAMES)
    if known.startswith("did you mean"):  # a slip of the fingers, which asks for no lesson
        raise UsageError(f"unknown data {spec!r}; {known}, a manifest (.yaml), or a folder")
    raise UsageError(
        f"unknown data {spec!r}; {known}, a manifest (.yaml), or a folder with one or with a data set as it is "
        f"downloaded\n{_HOW_TO}"
    )

"""`manifest.json`: which stages a split network has, what flows between them, and whether the files are the ones written.

Needs neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmtas.errors import UsageError, nearest
from bmtas.files import file_hash, first_problem, read_json
from export.sessions.protocol import TensorSpec

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
IMAGE = "image"
"""Where an input comes from that no stage makes."""

_Size = Annotated[int, Field(ge=1)]
_Name = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Port(_Entry):
    """One value that enters or leaves a stage; `dtype` is NumPy's name, or `bfloat16`."""

    name: _Name
    shape: list[_Size]
    dtype: _Name

    def spec(self) -> TensorSpec:
        """Return it as the sessions describe it."""
        return TensorSpec(self.name, tuple(self.shape), self.dtype)


class Input(Port):
    """A value that a stage reads; `source` is the file of the stage that makes it, or `image`."""

    source: _Name = Field(alias="from")


class StageEntry(_Entry):
    """One stage: its file beside the manifest, the tasks that need it, what it reads and what it gives."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tasks: Annotated[list[_Name], Field(min_length=1)]
    inputs: Annotated[list[Input], Field(min_length=1)]
    outputs: Annotated[list[Port], Field(min_length=1)]


class Manifest(_Entry):
    """A split network: stages in an order in which each comes after those it reads, and the metadata of the file that was cut."""

    schema_version: int
    image: Port
    tasks: Annotated[list[_Name], Field(min_length=1)]
    stages: Annotated[list[StageEntry], Field(min_length=1)]
    metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def needed(self, tasks: Iterable[str]) -> list[StageEntry]:
        """Return the stages that `tasks` need, in order. Raises UsageError for an unknown task."""
        wanted = set()
        for name in tasks:
            if name not in self.tasks:
                raise UsageError(f"the network has no task {name!r}; {nearest(name, self.tasks)}")
            wanted.add(name)
        return [stage for stage in self.stages if wanted & set(stage.tasks)]


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of `folder`.

    Raises UsageError if it is missing, of a newer schema, has unknown fields, or its stages do not fit together: an input that no
    earlier stage makes (a cycle is one), a value made twice, a task without its output, or tasks that do not match what the wiring
    needs. The files are looked at by `verified`.
    """
    path = folder / MANIFEST
    data = read_json(path, SCHEMA_VERSION)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise UsageError(
            f"{path}: {first_problem(error)}; it was changed or is not a split of bmtas, split the network again"
        ) from None
    check_wiring(manifest, str(path))
    return manifest


def check_wiring(manifest: Manifest, where: str) -> None:
    """Raise UsageError, beginning with `where`, if the stages do not fit together (see `read_manifest`)."""
    made: dict[tuple[str, str], Port] = {(IMAGE, manifest.image.name): manifest.image}
    sources: dict[str, str] = {manifest.image.name: IMAGE}
    for stage in manifest.stages:
        for value in stage.inputs:
            found = made.get((value.source, value.name))
            if found is None:
                raise UsageError(
                    f"{where}: {stage.file} reads {value.name!r} from {value.source!r}, which does not make it before; a stage "
                    f"reads the image or stages above it, which make {', '.join(sources)}"
                )
            if found.spec() != value.spec():
                raise UsageError(
                    f"{where}: {stage.file} reads {value.name!r} as {value.dtype} {value.shape}, but {value.source} makes it as "
                    f"{found.dtype} {found.shape}"
                )
        for port in stage.outputs:
            if port.name in sources:
                raise UsageError(f"{where}: {port.name!r} is made twice, by {sources[port.name]} and {stage.file}")
            sources[port.name] = stage.file
            made[stage.file, port.name] = port
    for task in manifest.tasks:
        if sources.get(task, IMAGE) == IMAGE:
            raise UsageError(f"{where}: no stage makes the output of the task {task!r}; export the stages again")
    _check_tasks(manifest, sources, where)


def _check_tasks(manifest: Manifest, sources: dict[str, str], where: str) -> None:
    """Raise UsageError where the tasks of a stage are not those whose outputs lead back to it."""
    files = {stage.file: stage for stage in manifest.stages}
    if len(files) != len(manifest.stages):
        raise UsageError(f"{where}: two stages name the same file; each stage is a file of its own")
    needing: dict[str, set[str]] = {file: set() for file in files}
    for task in manifest.tasks:
        pending = [sources[task]]
        while pending:
            file = pending.pop()
            needing[file].add(task)
            pending += [v.source for v in files[file].inputs if v.source != IMAGE]
    for file, stage in files.items():
        if needing[file] != set(stage.tasks):
            raise UsageError(
                f"{where}: {file} names the tasks {', '.join(sorted(stage.tasks))}, but what is wired to it is needed by "
                f"{', '.join(sorted(needing[file])) or 'none'}; export the stages again"
            )


def verified(folder: Path, stage: StageEntry) -> Path:
    """Return the path of a stage's file. Raises UsageError if it is missing or not the one that the manifest means."""
    path = folder / stage.file
    if not path.is_file():
        raise UsageError(
            f"{path} is missing, but {MANIFEST} names it; copy the whole folder, or split the network again"
        )
    if file_hash(path) != stage.sha256:
        raise UsageError(
            f"{path} is not the file that {MANIFEST} means (its SHA-256 differs): it was changed, cut short or belongs to another "
            "split; copy the whole folder again, or split the network again"
        )
    return path

"""The manifest: a short YAML file that describes a folder of images and labels (see examples/own-data.yaml).

Every scalar of the file is read as text and converted to what its key asks for. So `0061` and `null` stay
what they look like where an id or the name of a class is meant; plain YAML makes 49 and nothing of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bmtas.errors import UsageError, nearest
from bmtas.extras import require
from bmtas.kinds import find_kind, known_kinds
from bmtas.tasks import LOSS_WEIGHTS, Task, TaskKind

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Endings of image files, tried in this order where the manifest names none."""

ENCODINGS: dict[TaskKind, tuple[str, ...]] = {
    TaskKind.SEGMENTATION: ("ids",),
    TaskKind.BINARY: ("mask",),
    TaskKind.EDGE: ("mask",),
    TaskKind.NORMALS: ("rgb", "bgr", "npy"),
    TaskKind.DEPTH: ("uint16", "npy"),
    TaskKind.REGRESSION: ("uint8", "uint16", "npy"),
    TaskKind.CLASSIFICATION: ("csv",),
}
"""How the label files of a kind may be written; the first is the default. `bmtas.data.labels` reads them."""

_PICTURES = (".png", ".tif", ".tiff")
_LABEL_SUFFIXES = {
    "ids": (".png", ".npy", ".tif", ".tiff"),
    "mask": (".png", ".npy", ".tif", ".tiff"),
    "npy": (".npy",),
}

_KEYS: dict[TaskKind, tuple[str, ...]] = {
    TaskKind.SEGMENTATION: ("folder", "prefix", "suffix", "classes", "ignore", "map"),
    TaskKind.BINARY: ("folder", "prefix", "suffix", "ignore", "map"),
    TaskKind.EDGE: ("folder", "prefix", "suffix", "ignore", "map", "edge_positive_weight", "edge_tolerance"),
    TaskKind.NORMALS: ("folder", "prefix", "suffix", "axes", "flip_y"),
    TaskKind.DEPTH: ("folder", "prefix", "suffix", "scale", "invalid"),
    TaskKind.REGRESSION: ("folder", "prefix", "suffix", "scale", "invalid", "normalise"),
    TaskKind.CLASSIFICATION: ("file", "classes"),
}
_COMMON_KEYS = ("kind", "encoding", "loss_weight")

_NULLS = ("", "~", "null", "Null", "NULL")
_MAX_COUNT = 65535  # of classes given as a number: a slip of the finger must not fill the memory with names


def _parse_kind(value: Any) -> TaskKind:
    try:
        return TaskKind.parse(str(value), known_kinds())
    except UsageError as error:
        raise ValueError(str(error)) from None


def _parse_size(value: Any) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(re.fullmatch(r"[1-9]\d{0,4}", str(v)) for v in value):
        return int(value[0]), int(value[1])
    raise ValueError("the size is [height, width], two whole numbers above 0")


def _parse_classes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.isdecimal() and int(value) <= _MAX_COUNT:
        return tuple(str(i) for i in range(int(value)))
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise ValueError(f"give a list of names, or how many classes there are (at most {_MAX_COUNT})")


def _parse_ignore(value: Any) -> tuple[int, ...]:
    if value in _NULLS:
        return ()
    values = value if isinstance(value, list) else [value]
    try:
        return tuple(int(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError("give a whole number, a list of them, or null for none") from None


def _parse_axes(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and sorted(str(v).lstrip("-") for v in value) == ["x", "y", "z"]:
        return tuple(value)
    raise ValueError("give for each channel of the file the axis that it holds, such as [x, z, -y]: x, y, z once each")


def _parse_split(value: Any) -> float | str | tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if not isinstance(value, str) or value in _NULLS:
        raise ValueError("give a text file with one id per line, a list of ids, or a fraction such as 0.2")
    try:
        fraction = float(value)
    except ValueError:
        return value
    if not 0 < fraction < 1:
        raise ValueError("a fraction of the images lies between 0 and 1, such as 0.2")
    return fraction


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """Take `key:` without a value as absent, but for `ignore`, where null is a decision."""
        if not isinstance(data, dict):
            raise ValueError(f"here stands a mapping with the keys {', '.join(cls.model_fields)}")  # noqa: TRY004
        kept = {"ignore"} | (set(data) - set(cls.model_fields))  # an unknown key is a mistake whatever its value
        return {key: value for key, value in data.items() if key in kept or value not in _NULLS}


_Suffix = Annotated[str, Field(pattern=r"\.[^./\\]+$")]
_Prefix = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ImagesSpec(_Strict):
    """The key `images`: where the images are. `prefix` and `suffix` are what all file names begin and end with, not only `.png`."""

    folder: str
    prefix: _Prefix | None = None
    suffix: _Suffix | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Ends of file names, the preferred one first."""
        return (self.suffix,) if self.suffix else IMAGE_SUFFIXES


class TaskSpec(_Strict):
    """One entry of the key `tasks`: what the task is and how its label files are written."""

    kind: Annotated[TaskKind, BeforeValidator(_parse_kind)]
    own_kind: str | None = None  # never written: see `_name_own_kind`
    folder: str | None = None
    file: str | None = None
    prefix: _Prefix | None = None
    suffix: _Suffix | None = None
    encoding: str | None = None
    classes: Annotated[tuple[str, ...], BeforeValidator(_parse_classes)] = ()
    ignore: Annotated[tuple[int, ...] | None, BeforeValidator(_parse_ignore)] = None
    map: dict[int, int] | None = None
    loss_weight: _Positive | None = None
    edge_positive_weight: Annotated[float, Field(gt=0, lt=1)] = 0.95
    edge_tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.0075
    scale: _Positive | None = None
    invalid: Annotated[float, Field(allow_inf_nan=False)] | None = None
    normalise: Literal["median_mad"] | None = None
    axes: Annotated[tuple[str, ...], BeforeValidator(_parse_axes)] | None = None
    flip_y: bool = False

    @model_validator(mode="before")
    @classmethod
    def _name_own_kind(cls, data: Any) -> Any:
        """Read a kind that a plugin has brought as the one whose labels it has."""
        if not isinstance(data, dict):
            return data
        if "own_kind" in data:
            raise ValueError("the key 'own_kind' is not for manifests; write its name under 'kind'")
        brought = known_kinds().get(str(data.get("kind")))
        return data if brought is None else {**data, "kind": brought.like.value, "own_kind": brought.name}

    @property
    def read_as(self) -> str:
        """The encoding, the kind's default where the manifest names none."""
        return self.encoding or ENCODINGS[self.kind][0]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Ends of the label files' names, the preferred one first."""
        return (self.suffix,) if self.suffix else _LABEL_SUFFIXES.get(self.read_as, _PICTURES)

    @property
    def channel_axes(self) -> tuple[str, ...]:
        """For each channel of a file of normals, the axis (x right, y down, z forward) that it holds."""
        return self.axes or (("x", "-y", "z") if self.flip_y else ("x", "y", "z"))

    @model_validator(mode="after")
    def _check_kind(self) -> TaskSpec:
        """Check what the kind asks for and what does not fit it."""
        kind = self.kind.value
        allowed = (*_COMMON_KEYS, *_KEYS[self.kind])
        for key in sorted(self.model_fields_set.difference((*allowed, "own_kind"))):
            raise ValueError(f"the key {key!r} means nothing for kind {kind}; its keys: {', '.join(allowed)}")
        if self.read_as not in ENCODINGS[self.kind]:
            hint = nearest(self.read_as, ENCODINGS[self.kind])
            raise ValueError(f"unknown encoding {self.read_as!r} for kind {kind}; {hint}")
        place = _KEYS[self.kind][0]
        if not getattr(self, place):
            raise ValueError(f"the key {place!r} is missing: a task of kind {kind} names where its labels are")
        if self.kind is TaskKind.DEPTH and self.read_as == "uint16" and self.scale is None:
            raise ValueError("the key 'scale' is missing: metres per unit of the files, 0.001 for millimetres")
        if self.axes and self.flip_y:
            raise ValueError("'axes' and 'flip_y' say the same thing: keep one of them")
        if self.kind is TaskKind.CLASSIFICATION and len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name: the labels could not tell them apart")
        self._check_map()
        return self

    def _check_map(self) -> None:
        count = len(self.classes) if self.kind is TaskKind.SEGMENTATION else 2
        for value, target in (self.map or {}).items():
            if not 0 <= target < count:
                raise ValueError(f"'map' sends {value} to {target}; it must be a class, 0 to {count - 1}")
            if value in (self.ignore or ()):
                raise ValueError(f"the value {value} stands both in 'map' and in 'ignore': keep one of them")

    def to_task(self, name: str) -> Task:
        """Return the task as the rest of bmtas knows it. Raises UsageError where it breaks a rule."""
        usual = 1.0 if self.own_kind else LOSS_WEIGHTS.get(self.kind, 1.0)
        weight = usual if self.loss_weight is None else self.loss_weight
        return Task(
            name=name,
            kind=self.kind,
            classes=self.classes,
            loss_weight=weight,
            edge_positive_weight=self.edge_positive_weight,
            edge_tolerance=self.edge_tolerance,
            own=None if self.own_kind is None else find_kind(self.own_kind).told,
        )


class ManifestSpec(_Strict):
    """The whole manifest, checked by itself: no file that it names has been looked at."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    root: str = "."
    size: Annotated[tuple[int, int], BeforeValidator(_parse_size)] | None = None
    images: ImagesSpec
    tasks: Annotated[dict[str, TaskSpec], Field(min_length=1)]
    splits: dict[str, Annotated[float | str | tuple[str, ...], BeforeValidator(_parse_split)]]

    @model_validator(mode="after")
    def _check_splits(self) -> ManifestSpec:
        fractions = [value for value in self.splits.values() if isinstance(value, float)]
        if "val" not in self.splits or ("train" not in self.splits and not fractions):
            raise ValueError(
                "'splits' needs 'train' and 'val'; where 'val' is a fraction, 'train' may be left out, "
                "which makes it the rest"
            )
        total = math.fsum(fractions)
        if total > 1 + 1e-9 or ("train" not in self.splits and total > 1 - 1e-9):
            raise ValueError(f"the fractions of 'splits' come to {total:g}, which leaves no image for the rest")
        return self


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read: its content, where it stands, and the line of each of its keys."""

    path: Path
    spec: ManifestSpec
    lines: Mapping[tuple[str, ...], int]

    @property
    def name(self) -> str:
        """Name of the data set: as given, else that of the file, or of its folder for manifest.yaml."""
        stem = self.path.stem if self.path.stem != "manifest" else self.path.resolve().parent.name
        return self.spec.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") or "data"

    @property
    def root(self) -> Path:
        """The folder to which the other paths are relative."""
        return (self.path.parent / Path(self.spec.root).expanduser()).resolve()

    def where(self, *keys: str) -> str:
        """Return `file:line: key.key` for the start of a message."""
        return _where(self.path, self.lines, keys)

    def resolve(self, path: str, *keys: str, folder: bool) -> Path:
        """Return the folder or file that stands under `keys`. Raises UsageError if it is not there."""
        found = self.root / Path(path).expanduser()
        if found.is_dir() if folder else found.is_file():
            return found
        what = "folder" if folder else "file"
        raise UsageError(
            f"{self.where(*keys)}: there is no {what} {found}; paths are relative to 'root' ({self.root}): "
            f"correct the key or create the {what}"
        )

    def tasks(self) -> tuple[Task, ...]:
        """Return the tasks in the order of the manifest. Raises UsageError where one breaks a rule."""
        tasks = []
        for name, spec in self.spec.tasks.items():
            try:
                tasks.append(spec.to_task(name))
            except UsageError as error:
                raise UsageError(f"{self.where('tasks', name)}: {error}") from None
        return tuple(tasks)


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest `path`. Raises UsageError with file, line, key, finding and rule."""
    data, lines = _parse(path)
    try:
        spec = ManifestSpec.model_validate(data)
    except ValidationError as error:
        problems = [_describe(path, lines, dict(e)) for e in error.errors(include_url=False)]
        raise UsageError("\n".join(problems)) from None
    manifest = Manifest(path, spec, lines)
    if not manifest.root.is_dir():
        raise UsageError(
            f"{manifest.where('root')}: there is no folder {manifest.root}; 'root' is relative to the "
            "manifest's own folder: correct it or put the data there"
        )
    manifest.tasks()
    return manifest


def _parse(path: Path) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Return the YAML file as mappings, lists and texts, and the line of each key."""
    yaml = require("yaml", "host")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the manifest {path}: {error.strerror}; check the path") from None
    # BaseLoader makes texts of all scalars and builds no objects: see the top of this file.
    loader = None
    try:
        loader = yaml.BaseLoader(content)
        node = loader.get_single_node()
        lines: dict[tuple[str, ...], int] = {}
        if node is not None:
            _collect_lines(path, node, (), lines)
        return (None if node is None else loader.construct_document(node)), lines
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise UsageError(f"{place}: this is not YAML: {problem}; correct the line or the one before it") from None
    finally:
        if loader is not None:
            loader.dispose()


def _collect_lines(path: Path, node: Any, keys: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    """Add the line of each key below `node`. Raises UsageError if a key stands twice: YAML lets it pass."""
    if node.id == "sequence":
        children = [(str(i), child, child) for i, child in enumerate(node.value)]
    elif node.id == "mapping":
        children = [(str(key.value), key, child) for key, child in node.value]
    else:
        return
    for name, at, child in children:
        inner = (*keys, name)
        line = at.start_mark.line + 1
        if inner in lines:
            raise UsageError(f"{path}:{line}: the key {name!r} stands twice, first in line {lines[inner]}; remove one")
        lines[inner] = line
        _collect_lines(path, child, inner, lines)


def _where(path: Path, lines: Mapping[tuple[str, ...], int], keys: tuple[str, ...]) -> str:
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    return f"{path}{f':{line}' if line else ''}{': ' if keys else ''}{'.'.join(keys)}"


def _describe(path: Path, lines: Mapping[tuple[str, ...], int], error: dict[str, Any]) -> str:
    """Return one problem that pydantic found as a line of a message."""
    keys = tuple(str(key) for key in error["loc"])
    if error["type"] == "extra_forbidden":
        models: tuple[type[BaseModel], ...] = (ManifestSpec, ImagesSpec, TaskSpec)
        known = set(models[len(keys) - 1].model_fields) - {"own_kind"}
        return f"{_where(path, lines, keys)}: unknown key {keys[-1]!r}; {nearest(keys[-1], known)}"
    if error["type"] == "missing":
        return f"{_where(path, lines, keys[:-1])}: the key {keys[-1]!r} is missing; add it"
    found = error.get("input")
    shown = f" (found {found!r})" if isinstance(found, (str, list)) else ""
    if error["type"] == "value_error":
        return f"{_where(path, lines, keys)}: {error['ctx']['error']}{shown}"
    if error["type"] == "string_pattern_mismatch":
        rules = {
            "name": "letters, digits, '.', '_', '-'",
            "prefix": "the beginning of a file name, such as rgb_",
        }
        rule = rules.get(str(keys[-1]), "the end of a file name, such as .png")
        return f"{_where(path, lines, keys)}: this must be {rule}{shown}"
    return f"{_where(path, lines, keys)}: {error['msg']}{shown}"

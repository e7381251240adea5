"""Architectures: which tasks share which layers, as a small JSON that is readable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bmtas.errors import UsageError, nearest
from bmtas.files import first_problem, read_json

SCHEMA_VERSION = 1

Grouping = tuple[tuple[str, ...], ...]
"""A partition of the tasks at one layer: blocks of task names; the tasks of a block share the layer's computation."""


class _Fields(BaseModel):
    """The form of the JSON; further fields (costs, how it was found) are not the architecture's own."""

    model_config = ConfigDict(strict=True)

    backbone: str
    tasks: list[str]
    groupings: list[list[list[str]]]
    shared_stem: bool
    method: str


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The groupings of all encoder layers, each refining the one before it.

    `groupings` has one entry per searchable layer of `backbone`. `shared_stem` is True for every branched network;
    False stands for separate networks, one per task, which share nothing at all.
    """

    backbone: str
    tasks: tuple[str, ...]
    groupings: tuple[Grouping, ...]
    shared_stem: bool = True
    method: str = field(default="branched", compare=False)  # how it was found; equal trees are equal networks

    def __post_init__(self) -> None:
        """Put blocks into canonical order and check them. Raises UsageError where a grouping breaks the rules."""
        order = {name: i for i, name in enumerate(self.tasks)}
        if len(order) != len(self.tasks) or not order:
            raise UsageError(f"architecture: tasks {list(self.tasks)} must be named once each, at least one")
        canonical = []
        for layer, grouping in enumerate(self.groupings):
            named = sorted(name for block in grouping for name in block)
            if named != sorted(order):
                raise UsageError(
                    f"architecture: the grouping of layer {layer} holds the tasks {named}, but must hold each of "
                    f"{sorted(order)} exactly once"
                )
            blocks = [tuple(sorted(block, key=order.__getitem__)) for block in grouping if block]
            canonical.append(tuple(sorted(blocks, key=lambda block: order[block[0]])))
        object.__setattr__(self, "groupings", tuple(canonical))
        self._check_refinement()

    def _check_refinement(self) -> None:
        before: Grouping = (self.tasks,) if self.shared_stem else tuple((t,) for t in self.tasks)
        for layer, grouping in enumerate(self.groupings):
            for block in grouping:
                if not any(set(block) <= set(parent) for parent in before):
                    raise UsageError(
                        f"architecture: layer {layer} joins {'+'.join(block)}, which were apart before it; tasks that "
                        "have parted never share a layer again, so each grouping must refine the one before"
                    )
            before = grouping

    @classmethod
    def shared(cls, backbone: str, tasks: Sequence[str], layers: int) -> Architecture:
        """Return the network in which all tasks share all `layers` encoder layers."""
        return cls(backbone=backbone, tasks=tuple(tasks), groupings=((tuple(tasks),),) * layers)

    @classmethod
    def separate(cls, backbone: str, tasks: Sequence[str], layers: int) -> Architecture:
        """Return one network per task: nothing is shared, not even the stem."""
        apart = tuple((t,) for t in tasks)
        return cls(backbone=backbone, tasks=tuple(tasks), groupings=(apart,) * layers, shared_stem=False)

    @property
    def group_counts(self) -> tuple[int, ...]:
        """Number of groups alive in each layer."""
        return tuple(len(grouping) for grouping in self.groupings)

    @property
    def task_indices(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The groupings with each task as its index in `tasks`: the form in which cost tables take them."""
        index = {name: i for i, name in enumerate(self.tasks)}
        return tuple(tuple(tuple(index[name] for name in b) for b in grouping) for grouping in self.groupings)

    def subset(self, tasks: Sequence[str]) -> Architecture:
        """Return the architecture of `tasks` alone, in that order: every block without the other tasks.

        Raises UsageError on a task that is not among those of the architecture.
        """
        unknown = [name for name in tasks if name not in self.tasks]
        if unknown:
            raise UsageError(f"unknown task {unknown[0]!r}; {nearest(unknown[0], self.tasks)}")
        groupings = tuple(tuple(tuple(t for t in block if t in tasks) for block in g) for g in self.groupings)
        return Architecture(
            backbone=self.backbone,
            tasks=tuple(tasks),
            groupings=groupings,
            shared_stem=self.shared_stem,
            method=self.method,
        )

    def shared_depth(self, a: str, b: str) -> int:
        """Return how many encoder layers the tasks `a` and `b` compute together."""
        return sum(any(a in block and b in block for block in grouping) for grouping in self.groupings)

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as plain JSON values, with its schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "method": self.method,
            "backbone": self.backbone,
            "tasks": list(self.tasks),
            "shared_stem": self.shared_stem,
            "groupings": [[list(block) for block in grouping] for grouping in self.groupings],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str = "architecture") -> Architecture:
        """Inverse of `to_json`. Raises UsageError naming `where` if a field is missing or of another form."""
        try:
            fields = _Fields.model_validate(data)
        except ValidationError as error:
            raise UsageError(
                f"{where}: not an architecture ({first_problem(error)}); expected the JSON that `bmtas search` writes"
            ) from None
        return cls(
            backbone=fields.backbone,
            tasks=tuple(fields.tasks),
            groupings=tuple(tuple(tuple(block) for block in grouping) for grouping in fields.groupings),
            shared_stem=fields.shared_stem,
            method=fields.method,
        )

    @classmethod
    def read(cls, path: Path) -> Architecture:
        """Read an architecture file. Raises UsageError if it is missing, newer than this version, or malformed."""
        return cls.from_json(read_json(path, SCHEMA_VERSION), str(path))

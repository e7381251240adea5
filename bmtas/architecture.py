"""Architectures: what a method has derived, as a small JSON that is readable without torch.

BranchedArchitecture    which tasks share which layers: a tree, as its groupings
WiredArchitecture       whatever else a method derives: the merged graph itself, node by node
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from bmtas.errors import UsageError, nearest
from bmtas.files import first_problem, read_json
from bmtas.graph import Expression, MergedGraph, head_name, layer_name, merge

SCHEMA_VERSION = 1

Grouping = tuple[tuple[str, ...], ...]
"""A partition of the tasks at one layer: blocks of task names; the tasks of a block share the layer's computation."""


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """What a method has derived for some tasks on a backbone. `method` is how it was found; equal networks are equal whatever it is."""

    backbone: str
    tasks: tuple[str, ...]
    method: str = field(default="branched", compare=False)

    def _check_tasks(self) -> None:
        if len(set(self.tasks)) != len(self.tasks) or not self.tasks:
            raise UsageError(f"architecture: tasks {list(self.tasks)} must be named once each, at least one")

    @abstractmethod
    def graph(self, tap: int) -> MergedGraph:
        """Return the merged graph; `tap` is the layer that decoders of the backbone read beside the last one."""

    @abstractmethod
    def subset(self, tasks: Sequence[str]) -> Architecture:
        """Return the architecture of `tasks` alone, in that order. Raises UsageError on an unknown task."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the architecture as plain JSON values, with its schema version."""

    def _check_known(self, tasks: Sequence[str]) -> None:
        unknown = [name for name in tasks if name not in self.tasks]
        if unknown:
            raise UsageError(f"unknown task {unknown[0]!r}; {nearest(unknown[0], self.tasks)}")

    @staticmethod
    def from_json(data: dict[str, Any], where: str = "architecture") -> Architecture:
        """Inverse of `to_json`. Raises UsageError naming `where` if a field is missing or of another form."""
        kind: type[BranchedArchitecture] | type[WiredArchitecture]
        kind = WiredArchitecture if "nodes" in data else BranchedArchitecture
        try:
            return kind.from_fields(data)
        except ValidationError as error:
            raise UsageError(
                f"{where}: not an architecture ({first_problem(error)}); expected the JSON that `bmtas search` writes"
            ) from None

    @staticmethod
    def read(path: Path) -> Architecture:
        """Read an architecture file. Raises UsageError if it is missing, newer than this version, or malformed."""
        return Architecture.from_json(read_json(path, SCHEMA_VERSION), str(path))


class _Tree(BaseModel):
    """The form of the JSON; further fields (costs, how it was found) are not the architecture's own."""

    model_config = ConfigDict(strict=True)

    backbone: str
    tasks: list[str]
    groupings: list[list[list[str]]]
    shared_stem: bool
    method: str


@dataclass(frozen=True, kw_only=True)
class BranchedArchitecture(Architecture):
    """The groupings of all encoder layers, each refining the one before it.

    `groupings` has one entry per searchable layer of `backbone`. `shared_stem` is True for every branched network;
    False stands for separate networks, one per task, which share nothing at all.
    """

    groupings: tuple[Grouping, ...]
    shared_stem: bool = True

    def __post_init__(self) -> None:
        """Put blocks into canonical order and check them. Raises UsageError where a grouping breaks the rules."""
        self._check_tasks()
        order = {name: i for i, name in enumerate(self.tasks)}
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
    def shared(cls, backbone: str, tasks: Sequence[str], layers: int) -> BranchedArchitecture:
        """Return the network in which all tasks share all `layers` encoder layers."""
        return cls(backbone=backbone, tasks=tuple(tasks), groupings=((tuple(tasks),),) * layers)

    @classmethod
    def separate(cls, backbone: str, tasks: Sequence[str], layers: int) -> BranchedArchitecture:
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

    def subset(self, tasks: Sequence[str]) -> BranchedArchitecture:
        """Return the architecture of `tasks` alone, in that order: every block without the other tasks.

        Raises UsageError on a task that is not among those of the architecture.
        """
        self._check_known(tasks)
        groupings = tuple(tuple(tuple(t for t in block if t in tasks) for block in g) for g in self.groupings)
        return BranchedArchitecture(
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
    def from_fields(cls, data: Mapping[str, Any]) -> BranchedArchitecture:
        """Inverse of `to_json`. Raises pydantic's ValidationError on a field of another form, UsageError on a broken rule."""
        fields = _Tree.model_validate(data)
        return cls(
            backbone=fields.backbone,
            tasks=tuple(fields.tasks),
            groupings=tuple(tuple(tuple(block) for block in grouping) for grouping in fields.groupings),
            shared_stem=fields.shared_stem,
            method=fields.method,
        )

    def graph(self, tap: int) -> MergedGraph:
        """Return the tree as a merged graph.

        The decoder of a task reads the encoder's last layer on the task's path and the layer with index `tap` on it.
        """
        return merge({task: self._expression(task, tap) for task in self.tasks})

    def _expression(self, task: str, tap: int) -> Expression:
        stem = self.tasks if self.shared_stem else (task,)
        path = [Expression("stem", "+".join(stem))]
        for layer, grouping in enumerate(self.groupings):
            block = next(block for block in grouping if task in block)
            path.append(Expression(layer_name(layer), "+".join(block), (path[-1],)))
        return Expression(head_name(task), task, (path[-1], path[tap + 1]))


def tree_of(architecture: Architecture) -> BranchedArchitecture:
    """Return `architecture` where it is a tree. Raises UsageError where its method derives other networks."""
    if isinstance(architecture, BranchedArchitecture):
        return architecture
    raise UsageError(
        f"the network of --method {architecture.method} is no tree of shared layers, which is what this needs; take a run of "
        "--method branched or of a baseline that makes trees"
    )


_Index = Annotated[int, Field(ge=0)]


class _Wires(BaseModel):
    model_config = ConfigDict(strict=True)

    backbone: str
    tasks: list[str]
    nodes: list[Annotated[tuple[str, str, list[_Index]], Strict(False)]]  # JSON has lists
    outputs: dict[str, _Index]
    method: str


@dataclass(frozen=True, kw_only=True)
class WiredArchitecture(Architecture):
    """A merged graph as such: what tasks compute where they share more than a tree can say.

    In the JSON each node is [operation, weights, inputs] with the inputs' places in the list, none for the image; `outputs` are
    the places of the tasks' heads.
    """

    merged: MergedGraph

    def __post_init__(self) -> None:
        """Raise UsageError where the graph is not of the tasks."""
        self._check_tasks()
        if self.merged.tasks != self.tasks:
            raise UsageError(
                f"architecture: its graph predicts {list(self.merged.tasks)}, its tasks are {list(self.tasks)}; "
                "they must be the same, in the same order"
            )

    @classmethod
    def of(cls, backbone: str, method: str, expressions: Mapping[str, Expression]) -> WiredArchitecture:
        """Return the architecture in which each task computes its expression."""
        return cls(backbone=backbone, method=method, tasks=tuple(expressions), merged=merge(expressions))

    def graph(self, tap: int) -> MergedGraph:
        """Return the merged graph, which says itself what its heads read."""
        return self.merged

    def subset(self, tasks: Sequence[str]) -> WiredArchitecture:
        """Return what `tasks` need. Raises UsageError on an unknown task."""
        self._check_known(tasks)
        return WiredArchitecture(
            backbone=self.backbone, method=self.method, tasks=tuple(tasks), merged=self.merged.subset(tasks)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as plain JSON values, with its schema version."""
        place = {node.name: i for i, node in enumerate(self.merged.nodes)}
        return {
            "schema_version": SCHEMA_VERSION,
            "method": self.method,
            "backbone": self.backbone,
            "tasks": list(self.tasks),
            "nodes": [[n.operation, n.weights, [place[i] for i in n.inputs if i in place]] for n in self.merged.nodes],
            "outputs": {task: place[name] for task, name in self.merged.outputs.items()},
        }

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> WiredArchitecture:
        """Inverse of `to_json`. Raises pydantic's ValidationError on a field of another form, UsageError on a broken rule."""
        fields = _Wires.model_validate(data)
        expressions: list[Expression] = []
        for operation, weights, inputs in fields.nodes:
            if any(place >= len(expressions) for place in inputs):
                raise UsageError(
                    f"architecture: node {len(expressions)} ({operation}) reads the nodes {inputs}, but only those before it can be read"
                )
            expressions.append(Expression(operation, weights, tuple(expressions[place] for place in inputs)))
        if sorted(fields.outputs) != sorted(fields.tasks) or any(
            n >= len(expressions) for n in fields.outputs.values()
        ):
            raise UsageError(
                f"architecture: its outputs {fields.outputs} must name one of its {len(expressions)} nodes for each of its tasks {fields.tasks}"
            )
        for task, place in fields.outputs.items():
            if expressions[place].operation != head_name(task):
                raise UsageError(
                    f"architecture: the output of {task} is node {place}, {expressions[place].operation}, but must be {head_name(task)}"
                )
        return cls.of(
            fields.backbone, fields.method, {task: expressions[fields.outputs[task]] for task in fields.tasks}
        )

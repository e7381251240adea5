"""Cost tables: what each layer costs per group of tasks that is alive in it, and what is paid in any case."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from costs.errors import CostError
from costs.units import Resource

SCHEMA_VERSION: Final = 1
"""The one version of the JSON form that this code reads and writes."""

Cost = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A cost in the base unit of its resource: finite and not negative."""

Size = Annotated[int, Field(gt=0, strict=True)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(_Frozen):
    """One searchable layer: `per_group` is what every group of tasks alive in it costs, in base units."""

    name: str
    per_group: dict[Resource, Cost]


class FixedCost(_Frozen):
    """A part that is not searched: the stem or a head; `cost` is what one copy of it costs, in base units.

    The stem is `shared`: a branched network holds one copy, separate networks one per task in `tasks` (all
    tasks of the table if `tasks` is empty). A head is not shared and belongs to exactly one task.
    """

    name: str
    shared: bool
    tasks: list[str]
    cost: dict[Resource, Cost]


class CostTable(_Frozen):
    """What each part of one backbone costs at one input size (height, width) and batch, for T tasks and L
    layers.

    `depends_on` states what the cost of a layer is a function of. `groups_proportional` means the number of
    groups alive times `per_group`. Other dependences (a cost per number of groups, a cost per partition) will
    be further values of this field, so that the right formula follows from the table and not from the caller.

    Building one directly raises pydantic's ValidationError where a rule is broken; `from_json` raises
    CostError.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    backbone: str
    tasks: Annotated[list[str], Field(min_length=1)]
    input_size: tuple[Size, Size]
    batch: Size
    depends_on: Literal["groups_proportional"] = "groups_proportional"
    layers: Annotated[list[LayerCost], Field(min_length=1)]
    fixed: list[FixedCost]
    provenance: dict[str, str]

    @model_validator(mode="after")
    def _check_names(self) -> CostTable:
        _check_unique("tasks", self.tasks)
        _check_unique("layers", [layer.name for layer in self.layers])
        _check_unique("fixed parts", [part.name for part in self.fixed])
        for part in self.fixed:
            _check_unique(f"tasks of the fixed part {part.name!r}", part.tasks)
            unknown = sorted(set(part.tasks) - set(self.tasks))
            if unknown:
                raise ValueError(
                    f"fixed part {part.name!r} names {unknown}, which are not tasks of the table {self.tasks}"
                )
            if not part.shared and len(part.tasks) != 1:
                raise ValueError(
                    f"fixed part {part.name!r} is not shared and must name exactly one task, found {part.tasks}"
                )
        return self

    @model_validator(mode="after")
    def _check_resources(self) -> CostTable:
        expected = set(self.layers[0].per_group)
        if not expected:
            raise ValueError(f"layer {self.layers[0].name!r} states no cost; at least one resource is needed")
        costs = [(f"layer {layer.name!r}", layer.per_group) for layer in self.layers]
        costs += [(f"fixed part {part.name!r}", part.cost) for part in self.fixed]
        for where, cost in costs:
            if set(cost) != expected:
                raise ValueError(
                    f"{where} states {_names(cost)} but layer {self.layers[0].name!r} states {_names(expected)}; "
                    "all parts of a table state the same resources"
                )
        return self

    def resources(self) -> tuple[Resource, ...]:
        """Return the resources that the table knows, in the order of `Resource`."""
        return tuple(resource for resource in Resource if resource in self.layers[0].per_group)

    def layer_costs(self, resource: Resource) -> npt.NDArray[np.float64]:
        """Return the cost of one group in each layer, shape (L,), in base units. Raises CostError if not known."""
        self._require(resource)
        return np.array([layer.per_group[resource] for layer in self.layers], dtype=np.float64)

    def fixed_cost(self, resource: Resource) -> float:
        """Return what every branched network pays: the stem once and all heads. Raises CostError if not known."""
        self._require(resource)
        return math.fsum(part.cost[resource] for part in self.fixed)

    def operation_cost(self, name: str, resource: Resource) -> float:
        """Return what one copy of the layer or fixed part `name` costs, in base units. Raises CostError if not known."""
        self._require(resource)
        costs = {layer.name: layer.per_group for layer in self.layers} | {part.name: part.cost for part in self.fixed}
        if name not in costs:
            raise CostError(f"the cost table of {self.backbone} has no part called {name!r}")
        return costs[name][resource]

    def architecture_cost(self, group_counts: Sequence[int], resource: Resource) -> float:
        """Return the exact cost of a branched network with `group_counts[l]` groups (1..T) in layer l, L
        numbers.

        Raises CostError if the counts do not fit the table, or the table does not know the resource.
        """
        self._require(resource)
        if len(group_counts) != len(self.layers):
            raise CostError(
                f"{len(group_counts)} group counts for a table of {len(self.layers)} layers; one is needed per layer"
            )
        for layer, count in zip(self.layers, group_counts, strict=True):
            if not 1 <= count <= len(self.tasks):
                raise CostError(
                    f"layer {layer.name!r}: {count} groups, but {len(self.tasks)} tasks form 1 to {len(self.tasks)}"
                )
        return self._sum([int(count) for count in group_counts], resource)

    def shared_total(self, resource: Resource) -> float:
        """Return the cost of the cheapest network: all tasks share all layers. Raises CostError if not known."""
        return self._sum([1] * len(self.layers), resource)

    def split_total(self, resource: Resource) -> float:
        """Return the cost of the dearest branched network: one stem, T encoders. Raises CostError if not known."""
        return self._sum([len(self.tasks)] * len(self.layers), resource)

    def separate_total(self, resource: Resource) -> float:
        """Return the cost of T networks of their own: T stems, T encoders. Raises CostError if not known."""
        copies = {part.name: len(part.tasks) or len(self.tasks) for part in self.fixed if part.shared}
        return self._sum([len(self.tasks)] * len(self.layers), resource, copies)

    def subset(self, tasks: Sequence[str]) -> CostTable:
        """Return the table for these of its tasks, in the order given: heads of the others are left out.

        Raises CostError if `tasks` is empty, repeats a name, or names a task that the table does not know.
        """
        unknown = sorted(set(tasks) - set(self.tasks))
        if unknown or not tasks or len(set(tasks)) != len(tasks):
            raise CostError(
                f"tasks {list(tasks)}: name one or more of the table's tasks {self.tasks}, each once"
                + (f"; not known: {unknown}" if unknown else "")
            )
        fixed = []
        for part in self.fixed:
            kept = [task for task in part.tasks if task in tasks]
            if kept or not part.tasks:
                fixed.append(part.model_copy(update={"tasks": kept}))
        return self.model_copy(update={"tasks": list(tasks), "fixed": fixed})

    def to_json(self) -> str:
        """Return the table as indented JSON text, readable by `from_json`."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "cost table") -> CostTable:
        """Read a table from JSON text. Raises CostError, naming `where`, if it is malformed or of another version."""
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise CostError(f"{where}: not JSON ({error}); expected what `bmtas profile` writes") from None
        if not isinstance(data, dict):
            raise CostError(
                f"{where}: found {type(data).__name__}, expected the JSON object that `bmtas profile` writes"
            )
        _check_version(data.get("schema_version"), where)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(_describe(problem) for problem in error.errors()[:3])
            raise CostError(f"{where}: {problems}. Write it again with `bmtas profile`") from None

    def _sum(self, counts: Sequence[int], resource: Resource, copies: dict[str, int] | None = None) -> float:
        """Sum layers and fixed parts; fsum rounds once, so equal networks cost the same whatever the order."""
        self._require(resource)
        layers = [count * layer.per_group[resource] for count, layer in zip(counts, self.layers, strict=True)]
        fixed = [(copies or {}).get(part.name, 1) * part.cost[resource] for part in self.fixed]
        return math.fsum(layers + fixed)

    def _require(self, resource: Resource) -> None:
        if resource not in self.layers[0].per_group:
            remedy = (
                "; milliseconds need a table with measured latencies, so state the budget in MAdds or Params"
                if resource is Resource.LATENCY_MS
                else ""
            )
            raise CostError(
                f"the cost table of {self.backbone} knows {_names(self.resources())}, not {resource}{remedy}"
            )


def _check_unique(what: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what}: {repeated} named more than once")


def _check_version(found: object, where: str) -> None:
    if found == SCHEMA_VERSION and not isinstance(found, bool):
        return
    rule = f"{where}: found schema_version {found!r}, this version of bmtas understands {SCHEMA_VERSION}; "
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise CostError(rule + "the table was written by a newer bmtas: upgrade bmtas here, or profile again")
    raise CostError(rule + "write the table again with `bmtas profile`")


def _describe(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    found = problem["input"]
    shown = f" (found {found!r})" if isinstance(found, str | int | float) else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}{shown}" if place else message


def _names(resources: Any) -> str:
    return ", ".join(str(resource) for resource in Resource if resource in set(resources)) or "nothing"

"""Cost tables: what each layer costs per group of tasks that is alive in it, and what is paid in any case."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from costs.errors import CostError
from costs.exact_sums import exact_multiple, exact_sum
from costs.measurement import Measurements
from costs.partitions import Partition, partition_of, partitions_up_to, read_key
from costs.parts import Cost, FixedCost, Frozen, LayerCost
from costs.table_json import SCHEMA_VERSION, check_groupings, explain, read_fields
from costs.units import Dependence, Resource, as_resource

Size = Annotated[int, Field(gt=0, strict=True)]


MOST_PARTITION_TASKS: Final = 10
"""A cost per partition is stated for up to so many tasks: Bell(10) = 115,975 of them."""

_FIELDS: Final = {"groups_proportional": "per_group", "group_count": "per_count", "partition": "per_partition"}


class CostTable(Frozen):
    """What each part of one backbone costs at one input size (height, width) and batch, for T tasks and L
    layers.

    `depends_on` states what the cost of a layer is a function of, for all resources or for each: the number of groups
    alive times a cost per group (`groups_proportional`: multiply-adds, parameters), that number in any way
    (`group_count`: latency), or the grouping itself (`partition`, up to ten tasks). The right formula follows from the
    table and not from the caller. Costs add up over layers and fixed parts, but for peaks (`Resource.is_peak`), of
    which the network has the greatest.

    `measured` says of resources that were measured on a device how that was done. `operations` are further ones, by name, of
    which networks that are no trees are made (`operation_cost`); no branched network has them.

    Building one directly raises pydantic's ValidationError where a rule is broken; `from_json` raises
    CostError.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    backbone: str
    tasks: Annotated[list[str], Field(min_length=1)]
    input_size: tuple[Size, Size]
    batch: Size
    depends_on: Dependence | dict[Resource, Dependence] = "groups_proportional"
    layers: Annotated[list[LayerCost], Field(min_length=1)]
    fixed: list[FixedCost]
    provenance: dict[str, str]
    measured: Measurements = Field(default_factory=dict)
    operations: dict[str, dict[Resource, Cost]] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)  # a counted table is written as before, and earlier versions read it
        return {key: value for key, value in written.items() if key not in ("measured", "operations") or value}

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
    def _check_operations(self) -> CostTable:
        parts = {layer.name for layer in self.layers} | {part.name for part in self.fixed}
        if twice := sorted(parts & set(self.operations)):
            raise ValueError(f"operations: {twice} are layers or fixed parts already; each part is stated once")
        return self

    @model_validator(mode="after")
    def _check_resources(self) -> CostTable:
        expected = set(_stated(self.layers[0]))
        if not expected:
            raise ValueError(f"layer {self.layers[0].name!r} states no cost; at least one resource is needed")
        costs = [(f"layer {layer.name!r}", _stated(layer)) for layer in self.layers]
        costs += [(f"fixed part {part.name!r}", list(part.cost)) for part in self.fixed]
        for where, stated in costs:
            if set(stated) != expected or len(stated) != len(expected):
                raise ValueError(
                    f"{where} states {_names(stated)} but layer {self.layers[0].name!r} states {_names(expected)}; "
                    "all parts of a table state the same resources, once each"
                )
        if isinstance(self.depends_on, dict) and set(self.depends_on) != expected:
            raise ValueError(
                f"depends_on speaks of {_names(self.depends_on)}, the layers state {_names(expected)}; both name the same"
            )
        if not set(self.measured) <= expected:
            raise ValueError(
                f"measured speaks of {_names(self.measured)}, but the layers state {_names(expected)} alone"
            )
        for resource, layer in itertools.product(self.resources(), self.layers):
            self._check_layer(resource, layer)
        return self

    def _check_layer(self, resource: Resource, layer: LayerCost) -> None:
        field = _FIELDS[self.dependence(resource)]
        where, count = f"layer {layer.name!r}", len(self.tasks)
        if resource not in getattr(layer, field):
            kind = next(kind for kind, other in _FIELDS.items() if resource in getattr(layer, other))
            missing = "" if "depends_on" in self.model_fields_set else " (the default, as depends_on is missing)"
            raise ValueError(
                f"{where}: {resource} depends on {self.dependence(resource)}{missing}, and is to be stated in {field}; it "
                f'stands in {_FIELDS[kind]}: move it, or state "depends_on": {{"{resource}": "{kind}", ...}}'
            )
        if field == "per_count" and len(layer.per_count[resource]) != count:
            raise ValueError(
                f"{where}: {len(layer.per_count[resource])} costs in {resource} per number of groups; "
                f"{count} tasks need {count}, for 1 to {count} groups"
            )
        if field == "per_partition":
            if count > MOST_PARTITION_TASKS:
                raise ValueError(f"{resource}: a cost per partition is for up to {MOST_PARTITION_TASKS} tasks")
            try:
                check_groupings(layer.per_partition[resource], self.tasks)
            except CostError as error:
                raise ValueError(f"{where}, {resource}: {error}") from None

    def resources(self) -> tuple[Resource, ...]:
        """Return the resources that the table knows, in the order of `Resource`."""
        known = _stated(self.layers[0])
        return tuple(resource for resource in Resource if resource in known)

    def dependence(self, resource: Resource) -> Dependence:
        """Return what the costs in `resource` are a function of. Raises CostError if the table does not know it."""
        resource = self._require(resource)
        return self.depends_on[resource] if isinstance(self.depends_on, dict) else self.depends_on

    def layer_costs(self, resource: Resource) -> npt.NDArray[np.float64]:
        """Return the cost of one group in each layer, shape (L,), in base units.

        Raises CostError if not known, or not proportional to the number of groups.
        """
        if self.dependence(resource) != "groups_proportional":
            raise CostError(
                f"{resource} depends on {self.dependence(resource)} here: one group has no cost of its own; ask for the cost of each number of groups or of each grouping"
            )
        return np.array([layer.per_group[resource] for layer in self.layers], dtype=np.float64)

    def count_costs(self, resource: Resource) -> npt.NDArray[np.float64]:
        """Return the cost of each layer with 1..T groups alive, shape (L, T), in base units.

        Raises CostError if not known, or if it is not a function of that number.
        """
        if self.dependence(resource) == "group_count":
            return np.array([layer.per_count[resource] for layer in self.layers], dtype=np.float64)
        if self.dependence(resource) == "partition":
            raise CostError(f"{resource} depends on the partition here, not on the number of groups alone")
        return self.layer_costs(resource)[:, None] * np.arange(1.0, len(self.tasks) + 1)

    def __eq__(self, other: object) -> bool:
        """Say whether both state the same; what was computed from a table is no part of it."""
        if not isinstance(other, CostTable):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)

    __hash__ = None  # type: ignore[assignment] # it holds lists and dicts

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> CostTable:
        """Return another table with some fields replaced, checked like any other, and nothing computed from this one.

        Raises pydantic's ValidationError where a rule is broken. There is nothing that a `deep` copy would add.
        """
        return CostTable(**{**{name: getattr(self, name) for name in type(self).model_fields}, **(update or {})})

    @cached_property
    def by_partition(self) -> dict[Resource, tuple[dict[Partition, float], ...]]:
        """The costs of the resources that depend on the partition: for each layer by blocks as bitmasks."""
        return {
            resource: tuple(
                {read_key(key, self.tasks): cost for key, cost in layer.per_partition[resource].items()}
                for layer in self.layers
            )
            for resource in self.resources()
            if self.dependence(resource) == "partition"
        }

    @cached_property
    def derived(self) -> dict[tuple[str, Resource], npt.NDArray[np.float64]]:
        """What `costs.forms` has computed from this table, whose lists and dicts are not to be changed."""
        return {}

    def fixed_cost(self, resource: Resource) -> float:
        """Return what every branched network pays: the stem once and all heads; of a peak, the greatest of them.

        Raises CostError if not known.
        """
        resource = self._require(resource)
        return _total([part.cost[resource] for part in self.fixed], resource)

    def operation_cost(self, name: str, resource: Resource) -> float:
        """Return what one copy of the layer, fixed part or further operation `name` costs, in base units.

        Raises CostError if not known, or if a layer's cost is not proportional to the number of groups.
        """
        if self.dependence(resource) != "groups_proportional":
            raise CostError(f"{resource} depends on {self.dependence(resource)} here: one copy has no cost of its own")
        if name not in self._by_operation:
            raise CostError(f"the cost table of {self.backbone} has no part called {name!r}")
        costs = self._by_operation[name]
        if resource not in costs:
            raise CostError(f"{name!r} in the cost table of {self.backbone} states {_names(costs)}, not {resource}")
        return costs[resource]

    @cached_property
    def _by_operation(self) -> dict[str, dict[Resource, float]]:
        layers = {layer.name: layer.per_group for layer in self.layers}
        return {**self.operations, **layers, **{part.name: part.cost for part in self.fixed}}

    def architecture_cost(
        self, architecture: Sequence[int] | Sequence[Sequence[Sequence[int]]], resource: Resource
    ) -> float:
        """Return the exact cost of a branched network, fixed parts included: a sum, or for a peak the maximum.

        `architecture` has L entries: the grouping of each layer (blocks of task indices) or, where that is enough, the
        number of groups (1..T). Each grouping is to refine the one before, which is not checked here.

        Raises CostError if it does not fit the table, the table does not know the resource, or a cost depends on the
        partition and only the number of groups is given.
        """
        resource = self._require(resource)
        if len(architecture) != len(self.layers):
            raise CostError(
                f"{len(architecture)} group counts for a table of {len(self.layers)} layers; one is needed per layer"
            )
        entries: Sequence[int | Sequence[Sequence[int]]] = list(architecture)
        return self._sum([self.layer_cost(i, entry, resource) for i, entry in enumerate(entries)], resource)

    def shared_total(self, resource: Resource) -> float:
        """Return the cost of the network in which all tasks share all layers. Raises CostError if not known."""
        return self.architecture_cost([1] * len(self.layers), resource)

    def split_total(self, resource: Resource) -> float:
        """Return the cost of the branched network that shares only the stem. Raises CostError if not known."""
        return self.architecture_cost([len(self.tasks)] * len(self.layers), resource)

    def separate_total(self, resource: Resource) -> float:
        """Return the cost of T networks of their own: T stems, T encoders. Raises CostError if not known.

        Copies of a fixed part run one after the other, so for a peak they count once.
        """
        resource = self._require(resource)
        copies = {part.name: len(part.tasks) or len(self.tasks) for part in self.fixed if part.shared}
        count = len(self.tasks)
        layers = [self.layer_cost(i, count, resource) for i in range(len(self.layers))]
        return self._sum(layers, resource, {} if resource.is_peak else copies)

    def subset(self, tasks: Sequence[str]) -> CostTable:
        """Return the table for these of its tasks, in the order given: heads of the others are left out.

        Raises CostError if `tasks` is empty, repeats a name, or names a task that the table does not know, and where
        costs depend on the partition, which says nothing of fewer tasks.
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
        if self.by_partition and len(tasks) < len(self.tasks):
            raise CostError(
                f"tasks {list(tasks)}: {_names(self.by_partition)} depend on the partition of all tasks {self.tasks}; "
                "make a table for these tasks"
            )
        layers = [
            layer.model_copy(update={"per_count": {r: costs[: len(tasks)] for r, costs in layer.per_count.items()}})
            for layer in self.layers
        ]
        # Not model_copy, which takes along what was computed for all tasks.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return CostTable(**{**fields, "tasks": list(tasks), "fixed": fixed, "layers": layers})

    def to_json(self) -> str:
        """Return the table as indented JSON text, readable by `from_json`."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "cost table") -> CostTable:
        """Read a table from the JSON text of `to_json`, or of `bmtas profile --json` with what it adds to the table.

        Raises CostError, naming `where`, if it is malformed or of another version.
        """
        fields = read_fields(text, where)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise CostError(f"{where}: {explain(error, fields)}") from None

    def layer_cost(self, layer: int, entry: int | Sequence[Sequence[int]], resource: Resource) -> float:
        """Return what a layer (0-based) costs under a grouping or number of groups; raises as `architecture_cost`."""
        name, count = self.layers[layer].name, len(self.tasks)
        if isinstance(entry, Sequence):
            partition = partition_of(entry, count)
            groups = len(partition)
        else:
            partition, groups = (), int(entry)
            if not 1 <= groups <= count:
                raise CostError(f"layer {name!r}: {groups} groups, but {count} tasks form 1 to {count}")
        dependence = self.dependence(resource)
        if dependence == "groups_proportional":
            return exact_multiple(groups, self.layers[layer].per_group[resource])
        if dependence == "group_count":
            return self.layers[layer].per_count[resource][groups - 1]
        if not partition and 1 < groups < count:
            raise CostError(
                f"layer {name!r}: {resource} depends on the partition, which {groups} groups do not name; pass groupings"
            )
        partition = partition or partitions_up_to(2**count - 1, count)[0 if groups == 1 else -1]
        return self.by_partition[resource][layer][partition]

    def _sum(self, layers: Sequence[float], resource: Resource, copies: dict[str, int] | None = None) -> float:
        fixed = [(copies or {}).get(part.name, 1) * part.cost[resource] for part in self.fixed]
        return _total([*layers, *fixed], resource)

    def _require(self, resource: Resource) -> Resource:
        """Return `resource`, also where it is given by its key, if the table knows it; else raise CostError."""
        resource = as_resource(resource)
        if resource not in _stated(self.layers[0]):
            counted = resource in (Resource.MADDS, Resource.PARAMS)
            remedy = (
                "take a table that counts it, or make this one anew with `bmtas profile`"
                if counted
                else "give `bmtas search` --costs with a table that does, or a budget in one of those"
            )
            if resource in (Resource.LATENCY_MS, Resource.ENERGY_MJ):
                remedy += ". `bmtas profile --latency` measures one"
            raise CostError(
                f"the cost table of {self.backbone} knows {_names(self.resources())}, not {resource}; {remedy}"
            )
        return resource


def _stated(layer: LayerCost) -> list[Resource]:
    return [*layer.per_group, *layer.per_count, *layer.per_partition]


def _total(costs: Sequence[float], resource: Resource) -> float:
    """Join the costs of parts; sums are rounded once, so equal networks cost the same whatever the order."""
    return max(costs, default=0.0) if resource.is_peak else exact_sum(costs)


def _check_unique(what: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what}: {repeated} named more than once")


def _names(resources: Any) -> str:
    return ", ".join(str(resource) for resource in Resource if resource in set(resources)) or "nothing"

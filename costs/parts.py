"""The parts of a cost table: searchable layers and what is paid in any case, with their costs in base units."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from costs.units import Resource

Cost = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A cost in the base unit of its resource: finite and not negative."""


class Frozen(BaseModel):
    """Data that does not change and has no fields but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(Frozen):
    """One searchable layer; each resource is stated in the field that its dependence asks for, in base units.

    Attributes:
        per_group: `groups_proportional`: what every group of tasks alive in the layer costs.
        per_count: `group_count`: T numbers, what the layer costs with 1, 2, ..., T groups alive.
        per_partition: `partition`: what the layer costs under each grouping of the tasks, all Bell(T) of them, by
            names as in `semseg+parts|edge`.
    """

    name: str
    per_group: dict[Resource, Cost] = {}
    per_count: dict[Resource, list[Cost]] = {}
    per_partition: dict[Resource, dict[str, Cost]] = {}

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A table of proportional costs is written as before there were others, and earlier versions read it.
        written: dict[str, Any] = handler(self)
        empty = [field for field in ("per_count", "per_partition") if not written[field]]
        if not written["per_group"] and len(empty) < 2:
            empty.append("per_group")
        return {key: value for key, value in written.items() if key not in empty}


class FixedCost(Frozen):
    """A part that is not searched: the stem or a head; `cost` is what one copy of it costs, in base units.

    The stem is `shared`: a branched network holds one copy, separate networks one per task in `tasks` (all
    tasks of the table if `tasks` is empty). A head is not shared and belongs to exactly one task.
    """

    name: str
    shared: bool
    tasks: list[str]
    cost: dict[Resource, Cost]

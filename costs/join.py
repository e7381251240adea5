"""Joins two cost tables of the same network: what a user has measured beside what is counted here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from costs.errors import CostError
from costs.parts import FixedCost
from costs.table import CostTable
from costs.units import Resource


def join_tables(table: CostTable, other: CostTable, where: str) -> CostTable:
    """Return `table` with the resources of `other` added; messages call `other` by the name `where`.

    Both must be of the same backbone, tasks (in any order; that of `table` is kept), input size and batch, and name the
    same layers, in the same order, and the same fixed parts. A resource that both know must have equal costs in both.
    The provenance of `other` is kept under keys that begin with `joined `.

    Raises CostError, saying what was found, the rule and the fix, where they do not fit.
    """
    _check_same_network(table, other, where)
    other = other.subset(table.tasks)  # all of them, so that only their order changes
    both = [resource for resource in table.resources() if resource in other.resources()]
    for resource in both:
        _check_equal(table, other, resource, where)
    fixed = {part.name: part.cost for part in other.fixed}
    fields: dict[str, Any] = {name: getattr(table, name) for name in type(table).model_fields}
    fields["depends_on"] = {r: t.dependence(r) for t in (other, table) for r in t.resources()}
    fields["layers"] = [
        own.model_copy(
            update={
                "per_group": {**theirs.per_group, **own.per_group},
                "per_count": {**theirs.per_count, **own.per_count},
                "per_partition": {**theirs.per_partition, **own.per_partition},
            }
        )
        for own, theirs in zip(table.layers, other.layers, strict=True)
    ]
    fields["fixed"] = [part.model_copy(update={"cost": {**fixed[part.name], **part.cost}}) for part in table.fixed]
    fields["measured"] = {**other.measured, **table.measured}
    fields["provenance"] = {**table.provenance, **{f"joined {k}": v for k, v in other.provenance.items()}}
    return CostTable(**fields)


def _check_same_network(table: CostTable, other: CostTable, where: str) -> None:
    """Check all that says which network and which image the costs are of."""

    def require(what: str, found: object, wanted: object, fix: str) -> None:
        if found != wanted:
            raise CostError(
                f"{where}: found {what} {found}, but costs are joined to those of {what} {wanted}, and both tables must be "
                f"of the same network; {fix}"
            )

    again = "measure again for it, or search for what the table is of"
    require("backbone", other.backbone, table.backbone, again)
    require("tasks", sorted(other.tasks), sorted(table.tasks), again)
    require("input size (height, width)", tuple(other.input_size), tuple(table.input_size), again)
    require("batch", other.batch, table.batch, again)
    names = "name them as `bmtas profile --json` does"
    for what, found, wanted in (
        ("layers", [layer.name for layer in other.layers], [layer.name for layer in table.layers]),
        ("fixed parts", sorted(part.name for part in other.fixed), sorted(part.name for part in table.fixed)),
    ):
        if found != wanted:
            raise CostError(
                f"{where}: {what}: {_difference(found, wanted)}; both tables must be of the same network; {names}"
            )
    mine = {part.name: _use(part, table) for part in table.fixed}
    for part in other.fixed:
        require(f"use of {part.name!r}:", _use(part, other), mine[part.name], names)


def _difference(found: list[str], wanted: list[str]) -> str:
    """Return in what two lists of names differ: names of only one of them, or if there are none, their order."""
    unknown, missing = [x for x in found if x not in wanted], [x for x in wanted if x not in found]
    said = [f"found {unknown}, which the table it is joined to does not have"] if unknown else []
    said += [f"{missing} of the table it is joined to are missing"] if missing else []
    moved = [pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]]
    return " and ".join(said) or f"found {[x for x, _ in moved]} in the place of {[x for _, x in moved]}"


def _use(part: FixedCost, table: CostTable) -> str:
    tasks = ", ".join(sorted(part.tasks or table.tasks))
    return f"{'shared by' if part.shared else 'one for'} {tasks}"


def _check_equal(table: CostTable, other: CostTable, resource: Resource, where: str) -> None:
    """Check that both tables state the same of a resource that both know."""
    fix = f"leave {resource} out of it, or measure again what it is of"
    kinds = other.dependence(resource), table.dependence(resource)
    if kinds[0] != kinds[1]:
        raise CostError(
            f"{where}: {resource} depends on {kinds[0]} there and on {kinds[1]} in the table it is joined to; a resource of "
            f"both must have equal costs in both: {fix}"
        )
    for name, found, wanted in _stated(table, other, resource):
        if found != wanted:
            raise CostError(
                f"{where}: {name} costs {found} in {resource} there and {wanted} in the table it is joined to; a resource of "
                f"both must have equal costs in both: {fix}"
            )


def _stated(table: CostTable, other: CostTable, resource: Resource) -> Iterable[tuple[str, Any, Any]]:
    """Yield the name of each part, and what `other` and `table` state of it."""
    for i, (own, theirs) in enumerate(zip(table.layers, other.layers, strict=True)):
        if table.dependence(resource) == "partition":
            yield own.name, other.by_partition[resource][i], table.by_partition[resource][i]
        elif table.dependence(resource) == "group_count":
            yield own.name, theirs.per_count[resource], own.per_count[resource]
        else:
            yield own.name, theirs.per_group[resource], own.per_group[resource]
    costs = {part.name: part.cost[resource] for part in other.fixed}
    for part in table.fixed:
        yield part.name, costs[part.name], part.cost[resource]

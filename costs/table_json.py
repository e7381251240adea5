"""The JSON of a cost table: what is read of it, and in which words people are told what is wrong with theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError

from costs.errors import CostError
from costs.partitions import partitions_of, read_key, write_key
from costs.units import Dependence, Resource

SCHEMA_VERSION: Final = 1
"""The one version of the JSON form that this code reads and writes."""

_VIEWS: Final = ("totals", "by_tasks", "expectation", "networks")
"""What `bmtas profile --json` writes beside the table. It follows from the table, so a reader passes it over."""
_SHOWN: Final = 3
"""So many things of a kind are named in a message, then their number."""


def read_fields(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the fields of a table from its JSON. Raises CostError, naming `where`, if it is no such JSON or version."""
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise CostError(f"{where}: not JSON ({error}); expected what `bmtas profile --json` writes") from None
    if not isinstance(data, dict):
        raise CostError(
            f"{where}: found {type(data).__name__}, expected the JSON object that `bmtas profile --json` writes"
        )
    _check_version(data.get("schema_version"), where)
    return {key: value for key, value in data.items() if key not in _VIEWS}


def explain(error: ValidationError, fields: dict[str, Any]) -> str:
    """Return what breaks the rules of tables in `fields`: each thing once, with its places."""
    places: dict[str, list[str]] = {}
    for problem in error.errors():
        place, rule = _describe(problem, fields)
        places.setdefault(rule, []).append(place)
    told = [_placed(rule, where) for rule, where in places.items()]
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return "; ".join(told[:_SHOWN]) + more + ". Correct it in the table"


def check_groupings(keys: Iterable[str], tasks: Sequence[str]) -> None:
    """Raise CostError, naming them, unless `keys` are all groupings of the tasks, each once (`read_key`)."""
    by_partition: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        by_partition.setdefault(read_key(key, tasks), []).append(key)
    wanted = partitions_of(2 ** len(tasks) - 1)
    missing = [write_key(partition, tasks) for partition in wanted if partition not in by_partition]
    twice = [" and ".join(map(repr, same)) for same in by_partition.values() if len(same) > 1]
    found = f"{len(by_partition)} of the {len(wanted)} groupings of {len(tasks)} tasks"
    if missing:
        raise CostError(f"{found} have a cost; add {_some(map(repr, missing))}")
    if twice:
        raise CostError(f"{found} have a cost, and each needs one, but {_some(twice)} name the same; leave one out")


def _check_version(found: object, where: str) -> None:
    if found == SCHEMA_VERSION and not isinstance(found, bool):
        return
    rule = f"{where}: found schema_version {found!r}, this version of bmtas understands {SCHEMA_VERSION}; "
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise CostError(rule + "the table was written by a newer bmtas: upgrade bmtas here, or profile again")
    raise CostError(rule + "write the table again with `bmtas profile`")


def _describe(problem: Any, fields: dict[str, Any]) -> tuple[str, str]:
    """Return the place of one of pydantic's problems, and the rule in our words where its own are those of types."""
    if problem["loc"][:1] == ("depends_on",):  # a union: each form that it may have has problems of its own
        return _describe_dependence(fields["depends_on"])
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    found = problem["input"]
    if problem["type"] == "enum":
        return place, _unknown_resource(found)
    if problem["type"] == "extra_forbidden":
        return place, "a table has no such key; leave it out"
    shown = f" (found {found!r})" if isinstance(found, str | int | float) else ""
    return place, str(problem["msg"]).removeprefix("Value error, ") + shown


def _describe_dependence(found: object) -> tuple[str, str]:
    kinds = ", ".join(get_args(Dependence))
    if not isinstance(found, dict):
        return "depends_on", f"found {found!r}, expected one of {kinds}, or an object with one of them per resource"
    known = [resource.value for resource in Resource]
    unknown = next((key for key in found if key not in known), None)
    if unknown is not None:
        return f"depends_on.{unknown}", _unknown_resource(unknown)
    resource = next(key for key, kind in found.items() if kind not in get_args(Dependence))
    return f"depends_on.{resource}", f"found {found[resource]!r}, expected one of {kinds}"


def _unknown_resource(found: object) -> str:
    return f"{found!r} is no resource known here; known: {', '.join(Resource)}"


def _placed(rule: str, places: Sequence[str]) -> str:
    others = len(set(places)) - 1
    start = f"{places[0]}: " if places[0] else ""
    return start + rule + (f" (and in {others} more places)" if others else "")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more

"""What an exported file says of itself, so that a device needs nothing else to use it. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bmtas.architecture import Architecture
from bmtas.errors import UsageError
from bmtas.extras import own_version
from bmtas.tasks import Task
from export.interface import Interface

SCHEMA_VERSION = 2
PREFIX = "bmtas."
PROGRAM_METADATA = "bmtas.json"
"""Where a `.pt2` archive keeps them."""


def describe(
    architecture: Architecture,
    tasks: Sequence[Task],
    size: tuple[int, int],
    costs: Mapping[str, float],
    interface: Interface,
) -> dict[str, Any]:
    """Return the metadata: what the file computes, from what, and how its input is made and its outputs are read."""
    return {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"bmtas {own_version()}",
        "architecture": architecture.to_json(),
        **interface.to_json(size, tasks),
        "costs": dict(costs),
        "precision": "fp32",
    }


def set_metadata(model: Any, metadata: Mapping[str, Any]) -> None:
    """Write `metadata` into a ModelProto, in place of what it had under these names."""
    keys = {f"{PREFIX}{key}" for key in metadata}
    kept = [(p.key, p.value) for p in model.metadata_props if p.key not in keys]
    del model.metadata_props[:]
    for key, value in [*kept, *((f"{PREFIX}{k}", json.dumps(v)) for k, v in metadata.items())]:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def read_metadata(entries: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return our metadata among the text `entries` of a file; empty for a file of other origin.

    Raises UsageError if a newer version of bmtas wrote them or they were changed.
    """
    try:
        metadata = {k.removeprefix(PREFIX): json.loads(v) for k, v in entries.items() if k.startswith(PREFIX)}
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: its metadata are damaged ({error}); export it again") from None
    found = metadata.get("schema_version", SCHEMA_VERSION)
    if not isinstance(found, int) or found > SCHEMA_VERSION:
        raise UsageError(
            f"{where}: its metadata follow schema {found}, this version of bmtas knows up to {SCHEMA_VERSION}; upgrade bmtas"
        )
    return metadata

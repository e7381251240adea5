"""Cost tables as files: the JSON that `bmtas profile` writes, and a user's own table read back. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.architecture import Architecture, WiredArchitecture, tree_of
from bmtas.errors import UsageError
from bmtas.files import read_json
from costs.table import CostTable
from costs.table_json import SCHEMA_VERSION
from costs.units import Resource


def column_label(resource: Resource) -> str:
    """Return what `resource` is called in views. Latency and energy are never counted here: a table given by the user says them."""
    return f"{resource.label} (table)" if resource in (Resource.LATENCY_MS, Resource.ENERGY_MJ) else resource.label


def table_json(table: CostTable, **views: Any) -> dict[str, Any]:
    """Return the table as plain JSON values, with the totals of its networks and further `views` on it."""
    totals = {
        name: {resource.value: total(resource) for resource in table.resources()}
        for name, total in (
            ("shared", table.shared_total),
            ("split", table.split_total),
            ("separate", table.separate_total),
        )
    }
    content: dict[str, Any] = json.loads(table.to_json())
    return {**content, "totals": totals, **views}


def architecture_costs(table: CostTable, architecture: Architecture) -> dict[Resource, float]:
    """Return what `architecture` costs in each resource of `table`, in base units: exact, or for peaks a bound.

    Of what is no tree, the table knows what single operations cost: multiply-adds and parameters.
    """
    if isinstance(architecture, WiredArchitecture):
        graph = architecture.merged
        sums = {Resource.MADDS: graph.madds, Resource.PARAMS: graph.params}
        return {r: total(partial(table.operation_cost, resource=r)) for r, total in sums.items()}
    tree = tree_of(architecture)
    if not tree.shared_stem:
        return {r: table.separate_total(r) for r in table.resources()}
    return {r: table.architecture_cost(tree.task_indices, r) for r in table.resources()}


def read_table(path: Path) -> CostTable:
    """Read a table from a file of the form that `bmtas profile --json` writes.

    Raises UsageError if the file is missing, not JSON, or of a newer schema; CostError, naming the file, if it breaks a
    rule of tables.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the table itself, in a kit's folder a file table-*.json")
    data = read_json(path, SCHEMA_VERSION)
    if "parts" in data and "files" in data:
        raise UsageError(
            f"{path} is the manifest of a kit; the table that was measured with it is a file table-*.json beside it"
        )
    return CostTable.from_json(json.dumps(data), str(path))


def digest(table: CostTable) -> str:
    """Return a SHA-256 of all that the table states, in hexadecimal: equal tables have equal digests."""
    content = json.dumps(json.loads(table.to_json()), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

"""Measured tables as files: the table with its whole networks beside it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from bmtas.errors import UsageError
from bmtas.files import read_json, write_json
from bmtas.progress import Progress
from bmtas.tables import read_table, table_json
from costs.table import CostTable
from costs.table_json import SCHEMA_VERSION
from costs.units import Resource
from export.latency.fit import Fitted, Network, fit_table
from export.latency.kit import Kit, Role
from export.latency.measure import Effort, measure_kit
from export.latency.setting import Setting
from export.latency.visits import visits_of


def table_path(folder: Path, setting: Setting) -> Path:
    """Return the file in a kit's folder in which the table of a setting stands."""
    return folder / f"table-{setting.label}.json"


def measured_table(folder: Path, kit: Kit, setting: Setting, progress: Progress, effort: Effort) -> tuple[Path, Fitted]:
    """Measure the kit in `folder`, or go on with it, fit the table and write it there. Raises what measuring and fitting raise."""
    fitted = fit_table(kit, visits_of(measure_kit(folder, kit, setting, progress, effort)), setting)
    path = table_path(folder, setting)
    write_json(path, fitted_json(fitted))
    return path, fitted


def fitted_json(fitted: Fitted) -> dict[str, Any]:
    """Return table and whole networks as plain JSON values, in the form that `read_table` and `read_fitted` read."""
    networks = {resource.value: [n.to_json() for n in found] for resource, found in fitted.networks.items()}
    return table_json(fitted.table, networks=networks)


def read_fitted(path: Path) -> Fitted:
    """Read a measured table and its networks; there are none in a table of other origin. Raises UsageError or CostError for what is no table."""
    table = read_table(path)
    stored = read_json(path, SCHEMA_VERSION).get("networks", {})
    return Fitted(table, _networks(stored, table, path))


def _networks(stored: Any, table: CostTable, path: Path) -> dict[Resource, list[Network]]:
    try:
        found: dict[Resource, list[Network]] = {}
        entries: Mapping[str, Sequence[Mapping[str, Any]]] = stored
        for key, networks in entries.items():
            if Resource(key) in table.resources():
                found[Resource(key)] = [_network(entry) for entry in networks]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: its networks cannot be read ({error}); fit the table again with `bmtas profile run`"
        ) from None
    return found


def _network(entry: Mapping[str, Any]) -> Network:
    if entry["role"] not in get_args(Role):
        raise ValueError(f"{entry['role']!r} is no role of a network")
    numbers = {name: float(entry[name]) for name in ("measured", "predicted", "proportional")}
    return Network(str(entry["name"]), entry["role"], tuple(int(n) for n in entry["group_counts"]), **numbers)

"""The option `--network`: which of a run's networks a command works on."""

from __future__ import annotations

from bmtas.errors import UsageError, nearest
from bmtas.runs import COMPARED, NETWORKS


def chosen_networks(text: str) -> list[str]:
    """Return the names that `found`, `shared,separate` or `all` stand for. Raises UsageError for unknown ones."""
    if text == "all":
        return list(COMPARED)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"unknown network {name!r}; {nearest(name, [*NETWORKS, 'all'])}")
    return names

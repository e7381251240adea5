"""Which of the two decoders answers for a table: by sets of tasks where costs add up over groups, else by groupings."""

from __future__ import annotations

from collections.abc import Iterable

from costs.decode_path import PathDecoder
from costs.decode_tree import TreeDecoder
from costs.errors import CostError
from costs.splits import Floats
from costs.table import CostTable
from costs.units import Resource

BEAM_WIDTH = 256
"""Width where exactness is out of reach anyway, that is for more than eight tasks."""


def adds_up(table: CostTable, resource: Resource) -> bool:
    """Say whether a cost is a sum over layers and groups."""
    return table.dependence(resource) == "groups_proportional" and not resource.is_peak


def choose_decoder(
    probs: Floats, table: CostTable, resources: Iterable[Resource], width: int = BEAM_WIDTH
) -> TreeDecoder | PathDecoder:
    """Return the decoder for limits on these resources. Raises CostError if `width` is below 1."""
    if width < 1:
        raise CostError(f"width of the beam: found {width}, expected 1 or more")
    chosen = tuple(resources)
    kind = TreeDecoder if all(adds_up(table, resource) for resource in chosen) else PathDecoder
    return kind(probs, table, chosen, width)

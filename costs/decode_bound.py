"""How probable an architecture within the limits can be at all, where not all of them could be looked at.

Tasks draw independently. So the architecture that an architecture leaves on some of the tasks is at least as probable as
itself, and for disjoint sets of tasks the product of these probabilities still is; and it never has more groups. The best
of each part within the limits of the whole can be found exactly, since a part has few tasks. What tasks of different parts
ask of each other is lost, so the bound is loose where many tasks disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from costs.decode_path import PathDecoder
from costs.decode_tree import TreeDecoder
from costs.decoders import choose_decoder
from costs.lines import costs_by_count
from costs.parts import FixedCost, LayerCost
from costs.splits import COMPLETE_TASKS, Floats
from costs.table import CostTable
from costs.units import Dependence, Resource

_ROUNDING = 1e-9
"""Relative room for costs that are added up in another order than those of the whole."""


class Bound:
    """A bound from below on the score, -log probability, of every architecture within limits on `resources`."""

    def __init__(self, probs: Floats, table: CostTable, resources: Iterable[Resource]) -> None:
        """Take `probs` (L, T, C); nothing is computed before the bound is asked for."""
        self._probs, self._table, self._resources = probs, table, tuple(resources)

    def lowest(self, limits: dict[Resource, float]) -> float:
        """Return the bound for these limits, base units; inf if the distribution excludes all within them."""
        loose = {resource: limit * (1 + _ROUNDING) for resource, limit in limits.items()}
        return max(sum(_lowest(decoder, loose) for decoder in decoders) for decoders in self._decoders)

    @cached_property
    def _decoders(self) -> list[list[TreeDecoder | PathDecoder]]:
        """A decoder for each part of each way to cut the tasks; which way bounds best is seen afterwards."""
        tasks, few = range(len(self._table.tasks)), COMPLETE_TASKS
        cuts = ((tasks[:few], tasks[few:]), (tasks[:-few], tasks[-few:]), (tasks[::2], tasks[1::2]))
        return [[self._decoder(part) for part in cut if part] for cut in cuts]

    def _decoder(self, part: Sequence[int]) -> TreeDecoder | PathDecoder:
        table = _part_table(self._table, part, self._resources)
        return choose_decoder(self._probs[:, list(part)], table, self._resources)


def _lowest(decoder: TreeDecoder | PathDecoder, limits: dict[Resource, float]) -> float:
    found = decoder.best(limits)
    if found is None or not found.possible:  # what is possible goes before what is not
        return math.inf if found is None or found.exact else 0.0
    return found.lowest


def _part_table(table: CostTable, part: Sequence[int], resources: Sequence[Resource]) -> CostTable:
    """Return a table for some of the tasks by which nothing costs more than what it can be a part of.

    With n groups alive in the part there are n or more in the whole, and all fixed parts are paid.
    """
    depends: dict[Resource, Dependence] = {}
    counted: dict[Resource, Floats] = {}
    for resource in resources:
        depends[resource] = table.dependence(resource)
        if depends[resource] != "groups_proportional":
            depends[resource] = "group_count"
            least = costs_by_count(table, resource)[0]
            counted[resource] = np.minimum.accumulate(least[:, ::-1], axis=1)[:, ::-1][:, : len(part)]
    layers = [
        LayerCost(
            name=layer.name,
            per_group={r: layer.per_group[r] for r in resources if r not in counted},
            per_count={r: costs[i].tolist() for r, costs in counted.items()},
        )
        for i, layer in enumerate(table.layers)
    ]
    fixed = FixedCost(name="fixed", shared=True, tasks=[], cost={r: table.fixed_cost(r) for r in resources})
    return CostTable(
        backbone=table.backbone,
        tasks=[table.tasks[t] for t in part],
        input_size=table.input_size,
        batch=table.batch,
        depends_on=depends,
        layers=layers,
        fixed=[fixed],
        provenance=table.provenance,
    )

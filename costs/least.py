"""The architecture of least penalty within budgets, for any penalty that is a sum over layers of one per grouping.

This is the exhaustive search of branched multi-task networks (Vandenhende et al., BMVC 2020) as a dynamic programme: an
architecture is a path through the groupings, so all of them are compared without being listed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costs.chain_problem import all_groupings, penalty_problem
from costs.decode_path import search_problem
from costs.errors import BudgetBelowReach, CostError
from costs.partitions import Grouping, grouping_of
from costs.reach import limits_of
from costs.splits import COMPLETE_TASKS
from costs.table import CostTable
from costs.units import Budget, Resource


@dataclass(frozen=True)
class Least:
    """The architecture of least penalty within the budgets: groupings by layer, the exact cost in each resource."""

    groupings: tuple[Grouping, ...]
    penalty: float
    cost: dict[Resource, float]


def groupings_of(tasks: int) -> tuple[Grouping, ...]:
    """Return all groupings of `tasks` tasks in the order in which `least_architecture` takes penalties.

    Raises CostError for more than eight tasks.
    """
    if not 1 <= tasks <= COMPLETE_TASKS:
        raise CostError(f"{tasks} tasks: all groupings are compared for up to {COMPLETE_TASKS}; name fewer")
    return tuple(grouping_of(partition) for partition in all_groupings(tasks))


def least_architecture(penalties: npt.ArrayLike, table: CostTable, budgets: Sequence[Budget | str]) -> Least:
    """Return the architecture of least total penalty whose exact cost is within all budgets.

    Args:
        penalties: shape (L, K); what each of the K groupings of `groupings_of` costs in each layer, finite, 0 or more.
        table: what the groupings cost; L layers and T tasks.
        budgets: any number, also none.

    Exact for up to 8 tasks, all there is. Equal penalties (to 1e-9) are resolved by lower cost. Raises CostError if
    `penalties` does not fit, BudgetBelowReach if no architecture is within all budgets.
    """
    values = np.asarray(penalties, dtype=np.float64)
    states = groupings_of(len(table.tasks))
    expected = (len(table.layers), len(states))
    if values.shape != expected or not np.isfinite(values).all() or (values < 0).any():
        raise CostError(f"penalties of shape {values.shape}: expected finite numbers of 0 or more, shape {expected}")
    limits = limits_of(table, budgets) or {table.resources()[0]: math.inf}
    found = search_problem(penalty_problem(values, table, tuple(limits)), table, limits, None)
    if found is None:
        raise BudgetBelowReach("no architecture is within all budgets together; raise one of them")
    number = {grouping: k for k, grouping in enumerate(states)}
    penalty = math.fsum(values[layer, number[grouping]] for layer, grouping in enumerate(found.groupings))
    return Least(found.groupings, penalty, {r: table.architecture_cost(found.groupings, r) for r in table.resources()})

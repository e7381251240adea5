"""From probabilities to one architecture: the most probable one within all budgets. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costs.decode_bound import Bound
from costs.decoders import BEAM_WIDTH, adds_up, choose_decoder
from costs.errors import BudgetBelowReach, CostError
from costs.found import Found
from costs.groupings import check_rows, to_numpy
from costs.partitions import Grouping, Partition, grouping_of, meet
from costs.reach import budget_range, limits_of
from costs.splits import MOST_DECODED_TASKS, Floats, group_draws
from costs.table import CostTable
from costs.units import Budget, Resource, as_resource, format_quantity


@dataclass(frozen=True)
class Decoded:
    """An architecture within the budgets.

    Attributes:
        groupings: for each of the L layers the partition of the tasks, each refining the one before.
        cost: the exact cost in each resource of the table, base units.
        log_probability: natural logarithm of its probability; -inf if the distribution excludes it.
        exact: whether no more probable architecture is within the budgets; False where the search was cut short.
        gap: by how much the log-probability of the best architecture within the budgets exceeds this one's at most:
            what may have been lost. 0 if `exact`; inf if this one is excluded and one that is not may be within them.
    """

    groupings: tuple[Grouping, ...]
    cost: dict[Resource, float]
    log_probability: float
    exact: bool
    gap: float


def best_architecture(
    probs: npt.ArrayLike, table: CostTable, budgets: Sequence[Budget | str], *, width: int = BEAM_WIDTH
) -> Decoded:
    """Return the most probable architecture whose exact cost is within all budgets.

    Args:
        probs: shape (L, T, C); probs[l, t, j] is the probability that task t takes candidate j in layer l,
            rows summing to 1. Tasks and layers draw independently; the grouping of a layer joins the tasks whose
            draws agree in all layers up to it.
        table: what the groupings cost; L layers and T tasks.
        budgets: any number, also none; a text is read by `parse_budget`. Several for one resource mean the least. A
            budget for a peak holds in every layer.

    Equal probabilities (to about 1e-9 in the logarithm) are resolved by lower cost, in the order of the
    budgets, then by canonical order. Architectures that the distribution excludes are taken only where
    nothing else is within the budgets, those with the fewest impossible splits first; so there is an
    architecture for every budget in reach.

    Exact for up to 8 tasks. Where all budgets are for costs proportional to the number of groups, which add up over
    groups, this is a programme over sets of tasks (`costs.programme`); otherwise one over all partitions
    (`costs.chain`), which takes longer: 4,140 states a layer for eight tasks instead of 255. Beyond eight tasks only
    some ways to split, or some partitions, are looked at, and fronts are kept to `width` points for each set of tasks or
    grouping: the result is within the budgets all the same, `exact` says whether anything was left out, and `gap` bounds
    what was lost by it, see `costs.decode_bound`. It is often loose: a gap of some e-folds does not say that as much was
    lost.

    Raises BudgetBelowReach if a budget is below the cheapest architecture or no architecture is within all budgets
    together, and CostError if `probs` does not fit the table or is no distribution, if there are more than 14 tasks, the
    table lacks a resource, or `width` is below 1.
    """
    checked = _check_probs(probs, table)
    limits = limits_of(table, budgets)
    # Without any budget a resource is still needed to tell equally probable architectures apart.
    limits = limits or {min(table.resources(), key=lambda resource: not adds_up(table, resource)): math.inf}
    decoder = choose_decoder(checked, table, limits, width)
    found = decoder.best(limits)
    if found is None:
        seen = "" if decoder.complete else "that was looked at "
        raise BudgetBelowReach(
            f"no architecture {seen}is within all budgets together: "
            + ", ".join(format_quantity(limit, resource, digits=4) for resource, limit in limits.items())
            + "; each alone can be met. Raise one of them"
        )
    return _decoded(found, table, limits, Bound(checked, table, limits))


def pareto_front(
    probs: npt.ArrayLike, table: CostTable, resource: Resource, *, width: int = BEAM_WIDTH
) -> tuple[Decoded, ...]:
    """Return the best architecture for every reachable cost: by rising cost, and so by rising probability.

    What `best_architecture` returns for a budget in `resource` is the last entry whose cost is within it; the first is the
    cheapest architecture there is. Entries that the distribution excludes come first, fewer and fewer impossible splits
    in them. All come from such budgets, each just below the cost of the entry before, so they are as exact as it is.
    With five tasks and 18 layers there are 100 to 200 entries, some tens of milliseconds each.

    Raises CostError as `best_architecture` does.
    """
    checked = _check_probs(probs, table)
    resource = as_resource(resource)
    lowest = budget_range(table, resource)[0]
    decoder, bound = choose_decoder(checked, table, (resource,), width), Bound(checked, table, (resource,))
    entries: list[tuple[Found, Decoded]] = []
    limit = math.inf
    while limit >= lowest:
        found = decoder.best({resource: limit})
        if found is None:  # of those looked at, beyond eight tasks
            break
        best = _decoded(found, table, {resource: limit}, bound)
        # Beyond eight tasks a smaller budget may lead to a better one than a larger did: that one then stands for both.
        while entries and entries[-1][0].score >= found.score:
            entries.pop()
        entries.append((found, best))
        limit = math.nextafter(best.cost[resource], -math.inf)
    return tuple(decoded for _, decoded in reversed(entries))


def argmax_architecture(probs: npt.ArrayLike) -> tuple[Grouping, ...]:
    """Return the groupings of the paper's decode: every task takes its most probable candidate in each layer.

    `probs` has shape (L, T, C); of equal candidates the first is taken. Source: Bruggemann et al., BMVC 2020,
    section 3. The result keeps to no budget. Raises CostError if `probs` is no such array.
    """
    return architecture_from_draws(check_rows(probs).argmax(axis=2))


def architecture_from_draws(draws: npt.ArrayLike) -> tuple[Grouping, ...]:
    """Return the groupings that draws of candidates, whole numbers of shape (L, T), lead to.

    Tasks are together in a layer if their draws agree in it and in all layers before. Raises CostError if
    `draws` has another shape or type.
    """
    array = to_numpy(draws)
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
        raise CostError(f"draws of shape {array.shape} and type {array.dtype}: expected whole numbers, (layers, tasks)")
    groupings = []
    partition: Partition = (2 ** array.shape[1] - 1,)
    for layer in array:
        partition = meet(partition, group_draws(layer))
        groupings.append(grouping_of(partition))
    return tuple(groupings)


def _check_probs(probs: npt.ArrayLike, table: CostTable) -> Floats:
    array = check_rows(probs, (len(table.layers), len(table.tasks)))
    if array.shape[1] > MOST_DECODED_TASKS:
        raise CostError(
            f"{array.shape[1]} tasks: the most probable architecture is searched for up to {MOST_DECODED_TASKS}; name fewer tasks"
        )
    return array


def _decoded(found: Found, table: CostTable, limits: dict[Resource, float], bound: Bound) -> Decoded:
    cost = {resource: table.architecture_cost(found.groupings, resource) for resource in table.resources()}
    for resource, limit in limits.items():
        if cost[resource] > limit:  # the one promise of this module; reaching this line is a mistake in it
            raise RuntimeError(f"decoded an architecture of {cost[resource]} {resource} over the budget {limit}")
    if not found.possible:
        log_probability = -math.inf
    elif min(found.chances) > 0:
        log_probability = math.fsum(math.log(p) for p in found.chances)
    else:  # a product was too small for a float, its logarithm is not
        log_probability = -found.score
    gap = 0.0
    if not found.exact:
        lowest = max(found.lowest, bound.lowest(limits))
        if found.possible:
            gap = max(0.0, -lowest - log_probability)
        elif lowest < math.inf:
            gap = math.inf
    return Decoded(found.groupings, cost, log_probability, found.exact, gap)

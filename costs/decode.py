"""From probabilities to one architecture: the most probable one within all budgets. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR

import numpy as np
import numpy.typing as npt

from costs.errors import BudgetBelowReach, CostError
from costs.groupings import check_rows
from costs.partitions import Partition, meet, tasks_of
from costs.programme import Problem, Tree, best_tree, find_prices, shared_tree
from costs.splits import COMPLETE_TASKS, MOST_TASKS, Floats, group_draws, split_probabilities, splits_for
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity

Grouping = tuple[tuple[int, ...], ...]
"""A partition of the tasks 0..T-1: blocks in the order of their first task, tasks ascending."""

_SCORE_STEP = 2.0**-36
"""Lattice of -log probabilities. Sums up to 2^17 are exact; rounding moves an architecture by less than 1e-9."""
_IMPOSSIBLE = 800.0
"""Above every finite -log of a float64, which ends at 745."""
_COST_BITS = 50
"""Lattice of costs: whole numbers whose total stays below 2^50 are exact, other costs keep 50 bits."""
_BEAM_WIDTH = 256
"""Width where exactness is out of reach anyway, that is for more than eight tasks."""


@dataclass(frozen=True)
class Decoded:
    """An architecture within the budgets.

    Attributes:
        groupings: for each of the L layers the partition of the tasks, each refining the one before.
        cost: the exact cost in each resource of the table, base units.
        log_probability: natural logarithm of its probability; -inf if the distribution excludes it.
        exact: whether no more probable architecture is within the budgets; False where the search was cut short.
    """

    groupings: tuple[Grouping, ...]
    cost: dict[Resource, float]
    log_probability: float
    exact: bool


def best_architecture(probs: npt.ArrayLike, table: CostTable, budgets: Sequence[Budget]) -> Decoded:
    """Return the most probable architecture whose exact cost is within all budgets.

    Args:
        probs: shape (L, T, C); probs[l, t, j] is the probability that task t takes candidate j in layer l,
            rows summing to 1. Tasks and layers draw independently; the grouping of a layer joins the tasks whose
            draws agree in all layers up to it.
        table: what the groups cost; L layers and T tasks.
        budgets: any number, also none; several for one resource mean the least.

    Equal probabilities (to about 1e-9 in the logarithm) are resolved by lower cost, in the order of the
    budgets, then by canonical order. Architectures that the distribution excludes are taken only where
    nothing else is within the budgets, those with the fewest impossible splits first; so there is an
    architecture for every budget in reach.

    Exact for up to 8 tasks. Beyond, only some ways to split are looked at (`costs.splits.splits_for`) and
    fronts are kept to a width: the result is within the budgets all the same, `exact` says whether anything
    was left out.

    Raises BudgetBelowReach if a budget is below the cost of sharing everything, and CostError if `probs` does
    not fit the table or is no distribution, if there are more than 14 tasks, or the table lacks a resource.
    """
    checked = _check_probs(probs, table)
    limits = _check_budgets(table, budgets)
    splits = splits_for(checked)
    chances = split_probabilities(checked, splits)
    problem = Problem(splits, _scores(chances, checked.shape), *_on_lattice(table, limits))
    best = shared_tree(problem)

    def within(tree: Tree) -> bool:
        counts = [sum(int(splits.counts[split]) for split in layer) for layer in tree.layers]
        return all(table.architecture_cost(counts, resource) <= limit for resource, limit in limits.items())

    def offer(tree: Tree) -> None:
        nonlocal best
        if tree.rank < best.rank and within(tree):
            best = tree

    prices = find_prices(problem, offer)
    width = None if splits.tasks <= COMPLETE_TASKS else _BEAM_WIDTH
    best, complete = best_tree(problem, prices, best, within, width)
    return _decoded(problem, best, chances, table, limits, exact=complete and splits.complete)


def budget_range(table: CostTable, resource: Resource) -> tuple[float, float]:
    """Return the costs between which budgets make a difference, in base units.

    They are those of the network that shares all layers and of the one that shares only the stem: below the
    first no architecture fits, above the second every one does. Raises CostError if the table does not know
    the resource.
    """
    return table.shared_total(resource), table.split_total(resource)


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
    array = np.asarray(draws)
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
        raise CostError(f"draws of shape {array.shape} and type {array.dtype}: expected whole numbers, (layers, tasks)")
    groupings = []
    partition: Partition = (2 ** array.shape[1] - 1,)
    for layer in array:
        partition = meet(partition, group_draws(layer))
        groupings.append(_grouping(partition))
    return tuple(groupings)


def check_budgets(table: CostTable, budgets: Sequence[Budget]) -> None:
    """Raise BudgetBelowReach, naming the range, if a budget is below the cheapest architecture.

    Sharing everything is cheapest in every resource at once, so budgets that can be met one by one can be met
    together. Raises CostError if the table lacks a resource.
    """
    below = [budget for budget in budgets if not budget.value >= table.shared_total(budget.resource)]
    if below:
        met = [budget.text for budget in budgets if budget not in below]
        raise BudgetBelowReach(
            "; ".join(_explain(table, budget) for budget in below)
            + (f" (the other budgets, {', '.join(met)}, can be met)" if met else "")
            + ". Raise the budget, or take fewer tasks, smaller images or a smaller backbone"
        )


def _explain(table: CostTable, budget: Budget) -> str:
    low, high = budget_range(table, budget.resource)
    # Rounded inwards, so that the ends as printed are within reach themselves.
    least = format_quantity(low, budget.resource, digits=4, rounding=ROUND_CEILING)
    most = format_quantity(high, budget.resource, digits=4, rounding=ROUND_FLOOR)
    return (
        f"budget {budget.text} ({budget.resource}): no network of {table.backbone} for {len(table.tasks)} tasks is "
        f"within it; reachable is {least} (all layers shared) to {most} (only the stem shared)"
    )


def _check_budgets(table: CostTable, budgets: Sequence[Budget]) -> dict[Resource, float]:
    """Return the limit of each resource, in the order in which they were given."""
    check_budgets(table, budgets)
    limits: dict[Resource, float] = {}
    for budget in budgets:
        limits[budget.resource] = min(budget.value, limits.get(budget.resource, math.inf))
    # Without any budget a resource is still needed to tell equally probable architectures apart.
    return limits or {table.resources()[0]: math.inf}


def _check_probs(probs: npt.ArrayLike, table: CostTable) -> Floats:
    array = check_rows(probs, (len(table.layers), len(table.tasks)))
    if array.shape[1] > MOST_TASKS:
        raise CostError(f"{array.shape[1]} tasks: the most probable architecture is searched for up to {MOST_TASKS}")
    return array


def _scores(chances: Floats, shape: tuple[int, ...]) -> Floats:
    """Return -log of the chances on the lattice; an impossible split outweighs all possible ones together."""
    layers, tasks, _ = shape
    impossible = _IMPOSSIBLE * layers * tasks
    logs = -np.log(chances, out=np.full_like(chances, -impossible), where=chances > 0)
    return np.round(logs / _SCORE_STEP) * _SCORE_STEP + 0.0


def _on_lattice(table: CostTable, limits: dict[Resource, float]) -> tuple[Floats, Floats]:
    """Return the layers' costs (L, R) and the limits (R,) for their sum as whole numbers, fixed part taken off."""
    columns, bounds = [], []
    for resource, limit in limits.items():
        most = table.split_total(resource)
        scale = 2.0 ** (_COST_BITS - math.frexp(most)[1])
        exact = np.append(table.layer_costs(resource), table.fixed_cost(resource)) * scale
        rounded = np.round(exact)
        # Where costs are not whole numbers the lattice must not exclude a tree that is just within: leave
        # room for the rounding of all terms. Every tree is checked against the true sum before it is
        # accepted.
        room = 0.0 if (exact == rounded).all() else len(table.tasks) * len(exact) + 1.0
        columns.append(rounded[:-1])
        bounds.append(math.floor(min(limit, most) * scale) - rounded[-1] + room)
    return np.column_stack(columns), np.array(bounds)


def _decoded(
    problem: Problem,
    tree: Tree,
    chances: Floats,
    table: CostTable,
    limits: dict[Resource, float],
    *,
    exact: bool,
) -> Decoded:
    groupings = []
    for layer in tree.layers:
        blocks = [block for split in layer for block in problem.splits.partition(split)]
        groupings.append(_grouping(tuple(blocks)))
    counts = [len(grouping) for grouping in groupings]
    cost = {resource: table.architecture_cost(counts, resource) for resource in table.resources()}
    for resource, limit in limits.items():
        if cost[resource] > limit:  # the one promise of this module; reaching this line is a mistake in it
            raise RuntimeError(f"decoded an architecture of {cost[resource]} {resource} over the budget {limit}")
    taken = [chances[layer, split] for layer, splits in enumerate(tree.layers) for split in splits]
    log_probability = math.fsum(math.log(p) for p in taken) if min(taken) > 0 else -math.inf
    return Decoded(tuple(groupings), cost, log_probability, exact)


def _grouping(partition: Partition) -> Grouping:
    return tuple(sorted(tasks_of(block) for block in partition))

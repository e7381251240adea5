"""From probabilities to one architecture: the most probable one within all budgets. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR

import numpy as np
import numpy.typing as npt

from costs.chain import best_path
from costs.chain_problem import build_chain
from costs.errors import BudgetBelowReach, CostError
from costs.forms import extreme_architectures
from costs.groupings import check_rows
from costs.partitions import Grouping, Partition, grouping_of, meet
from costs.programme import Problem, Tree, best_tree, find_prices, relax, relaxed_tree, shared_tree
from costs.scores import COST_BITS, log_scores
from costs.splits import COMPLETE_TASKS, MOST_TASKS, Floats, group_draws, split_probabilities, splits_for
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity

BEAM_WIDTH = 256
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


def best_architecture(
    probs: npt.ArrayLike, table: CostTable, budgets: Sequence[Budget], *, width: int = BEAM_WIDTH
) -> Decoded:
    """Return the most probable architecture whose exact cost is within all budgets.

    Args:
        probs: shape (L, T, C); probs[l, t, j] is the probability that task t takes candidate j in layer l,
            rows summing to 1. Tasks and layers draw independently; the grouping of a layer joins the tasks whose
            draws agree in all layers up to it.
        table: what the groupings cost; L layers and T tasks.
        budgets: any number, also none; several for one resource mean the least. A budget for a peak holds in every
            layer.

    Equal probabilities (to about 1e-9 in the logarithm) are resolved by lower cost, in the order of the
    budgets, then by canonical order. Architectures that the distribution excludes are taken only where
    nothing else is within the budgets, those with the fewest impossible splits first; so there is an
    architecture for every budget in reach.

    Exact for up to 8 tasks. Where all budgets are for costs proportional to the number of groups, which add up over
    groups, this is a programme over sets of tasks (`costs.programme`); otherwise one over all partitions
    (`costs.chain`), which takes longer: 4,140 states a layer for eight tasks instead of 255. Beyond eight tasks only
    some ways to split, or some partitions, are looked at and fronts are kept to a width: the result is within the
    budgets all the same, and `exact` says whether anything was left out.

    Raises BudgetBelowReach if a budget is below the cheapest architecture or no architecture is within all budgets
    together, and CostError if `probs` does not fit the table or is no distribution, if there are more than 14 tasks, or
    the table lacks a resource.
    """
    if width < 1:
        raise CostError(f"width of the beam: found {width}, expected 1 or more")
    checked = _check_probs(probs, table)
    limits = _check_budgets(table, budgets)
    if all(_adds_up(table, resource) for resource in limits):
        return _best_tree(checked, table, limits, width)
    return _best_path(checked, table, limits)


def pareto_front(probs: npt.ArrayLike, table: CostTable, resource: Resource) -> tuple[Decoded, ...]:
    """Return the best architecture for every reachable cost: by rising cost, and so by rising probability.

    What `best_architecture` returns for a budget in `resource` is the last entry whose cost is within it. Entries come
    from such budgets, each just below the cost of the entry before, so they are as exact as it is. With five tasks and 18
    layers there are 100 to 200 entries, some tens of milliseconds each.

    Raises CostError as `best_architecture` does.
    """
    checked = _check_probs(probs, table)
    lowest = budget_range(table, resource)[0]
    found: list[Decoded] = []
    limit = math.inf
    while limit >= lowest:
        try:
            best = best_architecture(checked, table, [Budget(resource, limit, "")])
        except BudgetBelowReach:
            break
        # Beyond eight tasks a smaller budget may lead to a better one than a larger did: that one then stands for both.
        while found and found[-1].log_probability <= best.log_probability:
            found.pop()
        found.append(best)
        limit = math.nextafter(best.cost[resource], -math.inf)
    return tuple(reversed(found))


def _adds_up(table: CostTable, resource: Resource) -> bool:
    return table.dependence(resource) == "groups_proportional" and not resource.is_peak


def _best_tree(probs: Floats, table: CostTable, limits: dict[Resource, float], beam: int) -> Decoded:
    """Decode where all costs add up over groups."""
    splits = splits_for(probs)
    chances = split_probabilities(probs, splits)
    problem = Problem(splits, log_scores(chances, probs.shape), *_on_lattice(table, limits))
    best = shared_tree(problem)

    def groupings(tree: Tree) -> tuple[Grouping, ...]:
        return tuple(grouping_of(b for split in layer for b in splits.partition(split)) for layer in tree.layers)

    def within(tree: Tree) -> bool:
        counts = [sum(int(splits.counts[split]) for split in layer) for layer in tree.layers]
        return all(table.architecture_cost(counts, resource) <= limit for resource, limit in limits.items())

    def offer(tree: Tree) -> None:
        nonlocal best
        if tree.rank < best.rank and within(tree):
            best = tree

    prices = find_prices(
        problem.limits,
        lambda trial: relaxed_tree(problem, relax(problem, trial)),
        lambda _: shared_tree(problem),
        offer,
    )
    width = None if splits.tasks <= COMPLETE_TASKS else beam
    best, complete = best_tree(problem, prices, best, within, width)
    taken = [float(chances[layer, split]) for layer, used in enumerate(best.layers) for split in used]
    return _decoded(groupings(best), taken, table, limits, exact=complete and splits.complete)


def _best_path(probs: Floats, table: CostTable, limits: dict[Resource, float]) -> Decoded:
    """Decode where a cost depends on the grouping as a whole."""
    chain, states, chances, complete = build_chain(probs, table, limits)
    best: Tree | None = None

    def groupings(path: Tree) -> tuple[Grouping, ...]:
        return tuple(grouping_of(states[state]) for (state,) in path.layers)

    def within(path: Tree) -> bool:
        found = groupings(path)
        return all(table.architecture_cost(found, resource) <= limit for resource, limit in limits.items())

    def offer(path: Tree) -> None:
        nonlocal best
        if (best is None or path.rank < best.rank) and within(path):
            best = path

    if chain.reachable:
        for axis in range(len(chain.limits)):
            offer(chain.cheapest(axis))
        prices = find_prices(chain.limits, chain.path, chain.cheapest, offer)
        best, found_all = best_path(chain, prices, best, within)
        complete &= found_all
    if best is None:
        raise BudgetBelowReach(
            f"no architecture {'' if complete else 'that was looked at '}is within all budgets together: "
            + ", ".join(format_quantity(limit, resource, digits=4) for resource, limit in limits.items())
            + "; each alone can be met. Raise one of them"
        )
    taken, before = [], 0
    for layer, (state,) in enumerate(best.layers):
        first, last = chain.firsts[before], chain.firsts[before + 1]
        taken.append(float(chances[layer, first + int(np.flatnonzero(chain.taken[first:last] == state)[0])]))
        before = state
    return _decoded(groupings(best), taken, table, limits, exact=complete)


def budget_range(table: CostTable, resource: Resource) -> tuple[float, float]:
    """Return the costs between which budgets make a difference, in base units.

    Below the first no architecture fits, above the second every one does. They are those of the network that shares
    all layers and of the one that shares only the stem, unless the table says that some other is cheaper or dearer.
    Raises CostError if the table does not know the resource.
    """
    cheapest, dearest = extreme_architectures(table, resource)
    return table.architecture_cost(cheapest, resource), table.architecture_cost(dearest, resource)


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
        groupings.append(grouping_of(partition))
    return tuple(groupings)


def check_budgets(table: CostTable, budgets: Sequence[Budget]) -> None:
    """Raise BudgetBelowReach, naming the range, if a budget is below the cheapest architecture.

    Where no cost falls with more groups, sharing everything is cheapest in every resource at once, so budgets that can
    be met one by one can be met together. Raises CostError if the table lacks a resource.
    """
    below = [budget for budget in budgets if not budget.value >= budget_range(table, budget.resource)[0]]
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
    shared = " (all layers shared)" if low == table.shared_total(budget.resource) else ""
    split = " (only the stem shared)" if high == table.split_total(budget.resource) else ""
    return (
        f"budget {budget.text} ({budget.resource}): no network of {table.backbone} for {len(table.tasks)} tasks is "
        f"within it; reachable is {least}{shared} to {most}{split}"
    )


def _check_budgets(table: CostTable, budgets: Sequence[Budget]) -> dict[Resource, float]:
    """Return the limit of each resource, in the order in which they were given."""
    check_budgets(table, budgets)
    limits: dict[Resource, float] = {}
    for budget in budgets:
        limits[budget.resource] = min(budget.value, limits.get(budget.resource, math.inf))
    # Without any budget a resource is still needed to tell equally probable architectures apart.
    return limits or {min(table.resources(), key=lambda resource: not _adds_up(table, resource)): math.inf}


def _check_probs(probs: npt.ArrayLike, table: CostTable) -> Floats:
    array = check_rows(probs, (len(table.layers), len(table.tasks)))
    if array.shape[1] > MOST_TASKS:
        raise CostError(f"{array.shape[1]} tasks: the most probable architecture is searched for up to {MOST_TASKS}")
    return array


def _on_lattice(table: CostTable, limits: dict[Resource, float]) -> tuple[Floats, Floats]:
    """Return the layers' costs (L, R) and the limits (R,) for their sum as whole numbers, fixed part taken off."""
    columns, bounds = [], []
    for resource, limit in limits.items():
        most = table.split_total(resource)
        scale = 2.0 ** (COST_BITS - math.frexp(most)[1])
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
    groupings: tuple[Grouping, ...],
    taken: Sequence[float],
    table: CostTable,
    limits: dict[Resource, float],
    *,
    exact: bool,
) -> Decoded:
    """Return the result; `taken` are the probabilities whose product is that of the architecture."""
    cost = {resource: table.architecture_cost(groupings, resource) for resource in table.resources()}
    for resource, limit in limits.items():
        if cost[resource] > limit:  # the one promise of this module; reaching this line is a mistake in it
            raise RuntimeError(f"decoded an architecture of {cost[resource]} {resource} over the budget {limit}")
    log_probability = math.fsum(math.log(p) for p in taken) if min(taken) > 0 else -math.inf
    return Decoded(groupings, cost, log_probability, exact)

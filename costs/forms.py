"""What a cost table says, as arrays over partitions: the costs themselves, their Moebius inverse, their range."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from costs.errors import CostError
from costs.groupings import check_rows, grouping_probabilities
from costs.lattice import MOST_INTERVAL_TASKS, Floats, Ints, Lattice, lattice_of
from costs.partitions import Grouping, grouping_of
from costs.table import CostTable
from costs.units import Resource


def partition_costs(table: CostTable, resource: Resource) -> Floats:
    """Return c[l, k], the cost of layer l under every grouping k, (L, Bell(T)), in the order of `lattice_of(T)`.

    Computed once per table. Raises CostError if the table does not know the resource, or has more than ten tasks.
    """

    def compute() -> Floats:
        lattice = _lattice(table, resource)
        if table.dependence(resource) != "partition":
            return table.count_costs(resource)[:, lattice.counts - 1]
        order = [tuple(int(block) for block in row if block) for row in lattice.blocks]
        return np.array([[costs[partition] for partition in order] for costs in table.by_partition[resource]])

    return _once(table, "costs", resource, compute)


def inverted_costs(table: CostTable, resource: Resource) -> Floats:
    """Return chat[l, m] with E[cost of layer l] = sum_m chat[l, m] F_l(m), (L, Bell(T)).

    F_l(m) is the probability that the grouping of layer l is m or coarser, and chat the Moebius inverse of the costs
    (`costs.lattice.Lattice.invert_costs`). Computed once per table: by the polynomials
    r_b where the cost depends on the number of groups, by Moebius inversion over all intervals where it depends on the
    partition. Raises CostError as `partition_costs` does.
    """

    def compute() -> Floats:
        lattice = _lattice(table, resource)
        if table.dependence(resource) == "partition":
            return lattice.invert_costs(partition_costs(table, resource))
        return _inverted_counts(table.count_costs(resource), lattice)

    return _once(table, "inverted", resource, compute)


def expected_from_groupings(
    probs: Floats, table: CostTable, resource: Resource, chances: Floats | None = None
) -> Floats:
    """Return the expected cost of each layer, (L,), as the mean over all groupings, for `probs` (L, T, C).

    The definition itself, sum_k P(kappa_l = k) c[l, k]: what `costs.expected.expected_layer_costs` computes
    differentiably and with torch. Up to ten tasks. `chances` is `grouping_probabilities(probs)` for callers that have it
    already. Raises CostError as `grouping_probabilities` and `partition_costs`.
    """
    checked = check_rows(probs, (len(table.layers), len(table.tasks)))
    if chances is None:
        chances = grouping_probabilities(checked)
    result: Floats = (chances * partition_costs(table, resource)).sum(axis=1)
    return result


def extreme_architectures(table: CostTable, resource: Resource) -> tuple[tuple[Grouping, ...], tuple[Grouping, ...]]:
    """Return an architecture of least and one of greatest cost in `resource`, as groupings of the L layers.

    They are the one that shares everything and the one that shares only the stem where costs do not fall with more
    groups; a table of measurements need not be like that, so this follows the refinements from layer to layer.
    """
    tasks = len(table.tasks)
    if table.dependence(resource) == "groups_proportional":
        shared, split = (tuple(range(tasks)),), tuple((t,) for t in range(tasks))
        return (shared,) * len(table.layers), (split,) * len(table.layers)
    if table.dependence(resource) == "group_count":
        # From n groups every number from n to T can follow, and these groupings refine each other.
        ladder = [
            grouping_of([2 ** (tasks - n) * 2 - 1, *(1 << t for t in range(tasks - n + 1, tasks))])
            for n in range(1, tasks + 1)
        ]
        costs, fine, coarse = table.count_costs(resource), *np.triu_indices(tasks)[::-1]
    else:
        lattice = _lattice(table, resource)
        ladder = [grouping_of(int(block) for block in row if block) for row in lattice.blocks]
        costs = partition_costs(table, resource)
        fine = np.concatenate([np.tile(i.fine, len(i.coarse)) for i in lattice.intervals])
        coarse = np.concatenate([i.coarse.ravel() for i in lattice.intervals]).astype(np.int64)
    paths = [_cheapest_path(sign * costs, fine, coarse, peak=resource.is_peak) for sign in (1.0, -1.0)]
    cheapest, dearest = (tuple(ladder[k] for k in path) for path in paths)
    if resource.is_peak:  # the greatest maximum is that of one layer, whose grouping can be kept in all of them
        dearest = (ladder[int(np.unravel_index(costs.argmax(), costs.shape)[1])],) * len(costs)
    return cheapest, dearest


def _cheapest_path(costs: Floats, fine: Ints, coarse: Ints, *, peak: bool) -> list[int]:
    """Return the states of a path of least sum (of `peak`, least maximum) of costs (L, n) that never gets coarser."""
    join = np.maximum if peak else np.add
    order = np.lexsort((fine, coarse))  # by the state that is left, finer ones in canonical order
    fine, coarse = fine[order], coarse[order]
    firsts = np.searchsorted(coarse, np.arange(costs.shape[1]))
    rest = np.full(costs.shape[1], -math.inf if peak else 0.0)
    totals = []
    for cost in costs[::-1]:
        total = join(cost, rest)
        totals.append(total)
        rest = np.minimum.reduceat(total[fine], firsts)  # of a state: the best of those that may follow it
    path, state = [], 0
    for total in totals[::-1]:
        following = fine[coarse == state]
        state = int(following[total[following].argmin()])
        path.append(state)
    return path


def _inverted_counts(costs: Floats, lattice: Lattice) -> Floats:
    """Return chat for costs f (L, T) by number of groups: sum_j f(j) [x^j] prod_B r_|B|(x), B the blocks of m.

    What refines m parts each block B on its own: S(|B|, i) ways into i parts, for each of which the Moebius function has
    the factor (-1)^(i-1) (i-1)!. The polynomials r_b of `_block_polynomial` count them by the number of parts.
    """
    tasks = lattice.tasks
    polynomials = [_block_polynomial(size) for size in range(tasks + 1)]
    sizes = np.sort(np.stack([(lattice.labels == block).sum(axis=1) for block in range(tasks)], axis=1), axis=1)
    shapes, shape_of = np.unique(sizes, axis=0, return_inverse=True)
    coefficients = np.zeros((len(shapes), tasks), dtype=np.int64)
    for i, shape in enumerate(shapes):
        product = np.array([1], dtype=object)
        for size in shape[shape > 0]:
            product = np.convolve(product, polynomials[size])
        coefficients[i, : len(product) - 1] = product[1:].astype(np.int64)
    # The straight part of f in whole numbers, so that what cancels there cancels exactly and only the rest is rounded.
    numbers = np.arange(1, tasks + 1)
    slope = (costs[:, -1] - costs[:, 0]) / max(tasks - 1, 1)
    offset = costs[:, 0] - slope
    rest = costs - np.add.outer(offset, np.zeros(tasks)) - np.multiply.outer(slope, numbers)
    rest[np.abs(rest) <= 4 * np.finfo(np.float64).eps * np.abs(costs).max(axis=1, keepdims=True)] = 0.0
    inverted = rest @ coefficients.T.astype(np.float64)
    inverted += np.multiply.outer(slope, coefficients @ numbers) + np.multiply.outer(offset, coefficients.sum(axis=1))
    result: Floats = inverted[:, shape_of.ravel()]
    return result


def _block_polynomial(size: int) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Return the coefficients of r_b(x) = sum_i (-1)^(i-1) (i-1)! S(b, i) x^i for b = `size`, as Python's integers."""
    stirling = [1]
    for _ in range(size):
        stirling = [
            (stirling[k - 1] if k else 0) + (k * stirling[k] if k < len(stirling) else 0)
            for k in range(len(stirling) + 1)
        ]
    signed = [0] + [(-1) ** (i - 1) * math.factorial(i - 1) * stirling[i] for i in range(1, size + 1)]
    return np.array(signed, dtype=object)


def _once(table: CostTable, name: str, resource: Resource, compute: Callable[[], Floats]) -> Floats:
    if (name, resource) not in table.derived:
        table.derived[name, resource] = compute()
        table.derived[name, resource].flags.writeable = False  # callers get the array itself, not a copy
    return table.derived[name, resource]


def _lattice(table: CostTable, resource: Resource) -> Lattice:
    if len(table.tasks) > MOST_INTERVAL_TASKS:
        raise CostError(
            f"{len(table.tasks)} tasks: {resource} depends on {table.dependence(resource)} here, and sums over all groupings "
            f"are formed for up to {MOST_INTERVAL_TASKS} tasks; name fewer, or give a budget in MAdds or Params, which needs none of them"
        )
    return lattice_of(len(table.tasks))

"""A policy of AutoMTL that is over its budgets, changed until it is within: our own, as the paper knows no budget.

Each change is the one that gives up the least log-probability per excess it takes away: a choice of one task; all tasks' choices in one
convolution, or up to it, as in the cheapest network. The last of these leads to the cheapest network itself, so there is always a
change to go on with, and every budget that can be kept is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bmtas.errors import BudgetError
from bmtas.methods.automtl.prices import CHOICES, Choices, Floats, Prices
from bmtas.methods.automtl.reach import cheapest_choices
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.space import COUNTED
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity

_MIXTURES = 21
"""So many weightings of two budgets are tried for a network that is within both."""
_ROUNDS = 40
"""About so often are all changes compared anew; between, several of the best are made one after the other."""
_LEAST_LOG = -700.0
"""Stands for the logarithm of 0."""


@dataclass(frozen=True, eq=False)
class Limits:
    """The space with its prices, and budgets: what a network costs and by how much it is over."""

    space: ConvolutionSpace
    prices: dict[Resource, Prices]
    budgets: tuple[Budget, ...]

    @classmethod
    def of(cls, space: ConvolutionSpace, table: CostTable, budgets: Sequence[Budget]) -> Limits:
        """Take the prices from a table."""
        return cls(space, {r: space.prices(table, r) for r in COUNTED}, tuple(budgets))

    def costs(self, policies: npt.NDArray[np.int64]) -> dict[Resource, Floats]:
        """Return the cost in each resource of networks (B, T, L), (B,)."""
        return {r: prices.of(policies, self.space.wiring) for r, prices in self.prices.items()}

    def excess(self, policies: npt.NDArray[np.int64]) -> Floats:
        """Return the sum over budgets of the share by which networks (B, T, L) are over, (B,); 0 within all."""
        total = np.zeros(len(policies))
        for budget in self.budgets:
            cost = self.prices[budget.resource].of(policies, self.space.wiring)
            total += np.maximum(cost - budget.value, 0.0) / budget.value
        return total

    def cheapest(self) -> Choices:
        """Return choices (T, L) within all budgets: those of the cheapest network. Raises BudgetError where none is found.

        For one budget it is the true cheapest one. Two budgets are weighted against each other in several ways.
        """
        tasks, budgets = len(self.space.tasks), self.budgets
        prices = [self.prices[b.resource] for b in budgets]
        shares = np.linspace(0.0, 1.0, _MIXTURES)
        mixtures = [[1.0]] if len(budgets) == 1 else [[1.0 - share, share] for share in shares]
        for mixture in mixtures:
            weights = [share / budget.value for share, budget in zip(mixture, budgets, strict=True)]
            row = cheapest_choices(prices, weights, self.space.wiring, tasks)
            policy: Choices = np.tile(row, (tasks, 1))
            if self.excess(policy[None])[0] == 0:
                return policy
        raise BudgetError(self._why())

    def _why(self) -> str:
        least = []
        for budget in self.budgets:
            row = cheapest_choices([self.prices[budget.resource]], [1.0], self.space.wiring, len(self.space.tasks))
            policy = np.tile(row, (1, len(self.space.tasks), 1))
            cost = float(self.prices[budget.resource].of(policy, self.space.wiring)[0])
            least.append(f"{format_quantity(cost, budget.resource, digits=4)} for {budget.text}")
        return (
            f"no network of automtl within {', '.join(b.text for b in self.budgets)} was found; the least cost of each alone is "
            f"{', '.join(least)}. Raise a budget, or take another --method"
        )


def repaired(limits: Limits, probabilities: Floats) -> Choices:
    """Return the most probable policy (T, L) under (T, L, 3), changed until it is within the budgets. Raises BudgetError as `Limits.cheapest`."""
    logs = np.log(probabilities, out=np.full_like(probabilities, _LEAST_LOG), where=probabilities > 0)
    logs = np.maximum(logs, _LEAST_LOG)
    wanted: Choices = limits.space.held(logs.argmax(axis=-1))
    if limits.excess(wanted[None])[0] == 0:
        return wanted
    cheapest, current = limits.cheapest(), wanted
    while limits.excess(current[None])[0] > 0:
        current = _next(limits, current, logs, cheapest)
    return _restored(limits, current, logs, wanted)


def _likelihood(logs: Floats, policies: npt.NDArray[np.int64]) -> Floats:
    """Return the log-probability of policies (B, T, L), (B,)."""
    result: Floats = np.take_along_axis(logs[None], policies[..., None], axis=-1).sum(axis=(1, 2, 3))
    return result


def _next(limits: Limits, current: Choices, logs: Floats, cheapest: Choices) -> Choices:
    """Return the policy after a round: the best change, and others that were nearly as good and still take away excess."""
    changed = np.stack([np.where(mask, value, current) for mask, value in _changes(current, cheapest)])
    changed = limits.space.held(changed)
    before = float(limits.excess(current[None])[0])
    gain = before - limits.excess(changed)
    loss = float(_likelihood(logs, current[None])[0]) - _likelihood(logs, changed)
    useful = np.flatnonzero(gain > 0)
    order = useful[np.lexsort((-gain[useful], loss[useful] / gain[useful]))]
    best = changed[order[0]]
    at_a_time = max(1, current.size // _ROUNDS)
    for place in order[1:at_a_time]:
        difference = changed[place] != current
        tried = np.where(difference, changed[place], best)
        left = float(limits.excess(best[None])[0])
        if left == 0:
            break
        if limits.excess(tried[None])[0] < left:
            best = tried
    return best


def _changes(current: Choices, cheapest: Choices) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64] | int]]:
    """Return where and to what choices may be changed at a time."""
    tasks, convs = current.shape
    places = np.arange(current.size).reshape(tasks, convs)
    column = np.broadcast_to(np.arange(convs), (tasks, convs))
    single = [(places == k, choice) for k in range(current.size) for choice in range(CHOICES)]
    together = [(column == i, cheapest) for i in range(convs)]
    up_to = [(column <= i, cheapest) for i in range(convs)]
    return [*single, *together, *up_to]


def _restored(limits: Limits, current: Choices, logs: Floats, wanted: Choices) -> Choices:
    """Return the policy with those changes undone that were not needed after all, the least probable choices first."""
    gains = np.take_along_axis(logs, wanted[..., None], -1) - np.take_along_axis(logs, current[..., None], -1)
    for place in np.argsort(-gains.ravel(), kind="stable"):
        where = np.unravel_index(place, current.shape)
        if current[where] != wanted[where]:
            tried = current.copy()
            tried[where] = wanted[where]
            if limits.excess(tried[None])[0] == 0:
                current = tried
    return current

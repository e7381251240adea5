"""The cheapest and the dearest network of AutoMTL's space.

All tasks take the same choices in a cheapest network. For in any network, let x_t be the choices of task t, and c(x) the cost of the network
in which all tasks take x. What the tasks compute together is paid at least once, what a task computes alone is paid by it: so the cost is
at least the mean of c(x_t) over the tasks, and one of these c(x_t) is not above it.

What is left is where the tasks' values part. They do so only to gain: where T skips cost less than one shared convolution. From there on
all that is below is paid T times. To choose such places is a closure problem on the graph, whose linear programme has whole numbers for a
solution (Picard, Management Science 22, 1976).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmtas.extras import require
from bmtas.methods.automtl.prices import OWN, SHARED, SKIP, Choices, Flags, Floats, Prices, Wiring


def dearest_cost(prices: Prices, wiring: Wiring, tasks: int) -> float:
    """Return what the dearest network costs, in base units: every task has all for itself, or skips where that costs more."""
    apart = np.where(prices.own >= prices.skip, OWN, SKIP)
    choices = np.where(wiring.forced, SHARED, apart)
    return float(prices.of(np.broadcast_to(choices, (1, tasks, len(choices))), wiring)[0])


def cheapest_choices(prices: Sequence[Prices], weights: Sequence[float], wiring: Wiring, tasks: int) -> Choices:
    """Return the choices, (L,), of which all tasks take the same in the network of least cost: the sum of prices times weights.

    Raises EnvironmentProblem where scipy is missing.
    """

    def total(parts: Sequence[Floats]) -> Floats:
        summed: Floats = np.sum([w * part for w, part in zip(weights, parts, strict=True)], axis=0)
        return summed

    once, run = total([p.once for p in prices]), total([p.run for p in prices])
    skips = np.where(wiring.forced, np.inf, tasks * total([p.skip for p in prices]))
    together, below = once + run, once + tasks * run  # of a shared one, before and after the values have parted
    nothing = wiring.identity & ~wiring.forced
    gains = ~nothing & (skips < together)
    extra = np.where(nothing, 0.0, np.minimum(skips, below) - together)
    free = (tasks - 1) * total([p.free for p in prices])
    parted = _parted(np.where(gains, skips - together, extra), free, gains, wiring)
    return np.where(nothing | (parted & (skips < below)), SKIP, SHARED)


def _parted(extra: Floats, free: Floats, gains: Flags, wiring: Wiring) -> Flags:
    """Return at which convolutions' outputs the values have parted, (L,), for what that adds to the cost there, `extra` (L,) and `free` (F,).

    They part at some of `gains` and stay parted below.
    """
    if not gains.any():
        return gains
    cost = np.concatenate([extra, free])
    above = np.concatenate([wiring.above, wiring.above_free]) & gains
    lower, upper = np.nonzero(above)
    rows = np.arange(len(lower))
    # Parted above means parted below: u_upper - u_lower <= 0.
    signs, entries = np.repeat([1.0, -1.0], len(rows)), (np.tile(rows, 2), np.concatenate([upper, lower]))
    order = require("scipy.sparse", "train").csr_matrix((signs, entries), shape=(len(rows), len(cost)))
    solved = require("scipy.optimize", "train").linprog(
        cost / np.abs(cost).max(), A_ub=order, b_ub=np.zeros(len(rows)), bounds=(0, 1), method="highs-ds"
    )
    result: Flags = solved.x[: len(extra)] > 0.5
    return result

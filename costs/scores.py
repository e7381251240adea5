"""Numbers that are added up exactly, in any order: scores (-log of probabilities) and costs, on powers of two."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from costs.exact_sums import as_decimal
from costs.splits import Floats

SCORE_STEP = 2.0**-36
"""Lattice of -log probabilities. Sums up to 2^17 are exact; rounding moves an architecture by less than 1e-9."""
_IMPOSSIBLE = 800.0
"""Above every finite -log of a float64, which ends at 745."""
_COST_BITS = 50
"""Lattice of costs: whole numbers whose total stays below 2^50 are exact, other costs keep 50 bits."""


def impossible_score(shape: tuple[int, ...]) -> float:
    """Return the score of an impossible split, for probabilities of `shape` (L, T, C).

    It outweighs all possible splits of an architecture together.
    """
    layers, tasks, _ = shape
    return _IMPOSSIBLE * layers * tasks


def log_scores(chances: Floats, shape: tuple[int, ...]) -> Floats:
    """Return -log of the chances on the lattice, for probabilities of `shape` (L, T, C)."""
    logs = -np.log(chances, out=np.full_like(chances, -impossible_score(shape)), where=chances > 0)
    result: Floats = np.round(logs / SCORE_STEP) * SCORE_STEP + 0.0
    return result


class CostLattice:
    """The costs of one resource as whole numbers, and limits for their sum.

    Costs of up to fifteen digits are counted in units of their last decimal, so that 0.3 + 0.4 + 0.5 is 1.2 here as it is
    in `CostTable.architecture_cost`. Others are rounded to 50 bits: sums closer than that are not told apart.

    Attributes:
        costs: what was given, in steps of the lattice.
    """

    def __init__(self, costs: Floats, fixed: float, most: float, terms: int) -> None:
        """Take the costs of any shape, the fixed part, the greatest total, and of how many terms that is."""
        values = {float(cost) for cost in costs.ravel()} | {float(fixed)}
        written = [as_decimal(value) for value in values]
        decimals = max((-int(d.normalize().as_tuple().exponent) for d in written if d is not None), default=0)
        whole = None not in written and most * 10.0 ** max(decimals, 0) < 2.0**_COST_BITS
        self._most = most
        self._scale = Decimal(10) ** max(decimals, 0) if whole else Decimal(2.0 ** (_COST_BITS - math.frexp(most)[1]))
        steps = {value: float(round(Decimal(repr(value)) * self._scale)) for value in values}
        self.costs = np.vectorize(steps.__getitem__, otypes=[np.float64])(costs)
        self._fixed = steps[float(fixed)]
        # Where costs are rounded the lattice must not exclude what is just within: leave room for the rounding of all
        # terms. Every architecture is checked against its true sum before it is accepted.
        self._room = 0.0 if whole else float(terms)

    def limit(self, value: float) -> float:
        """Return the limit for a sum of `costs`, which lacks the fixed part."""
        return math.floor(Decimal(repr(min(value, self._most))) * self._scale) - self._fixed + self._room

"""Scores: -log of probabilities on a lattice of powers of two, so that their sums are exact in any order."""

from __future__ import annotations

import numpy as np

from costs.splits import Floats

SCORE_STEP = 2.0**-36
"""Lattice of -log probabilities. Sums up to 2^17 are exact; rounding moves an architecture by less than 1e-9."""
_IMPOSSIBLE = 800.0
"""Above every finite -log of a float64, which ends at 745."""
COST_BITS = 50
"""Lattice of costs: whole numbers whose total stays below 2^50 are exact, other costs keep 50 bits."""


def log_scores(chances: Floats, shape: tuple[int, ...]) -> Floats:
    """Return -log of the chances on the lattice, for probabilities of `shape` (L, T, C).

    An impossible split outweighs all possible ones together.
    """
    layers, tasks, _ = shape
    impossible = _IMPOSSIBLE * layers * tasks
    logs = -np.log(chances, out=np.full_like(chances, -impossible), where=chances > 0)
    result: Floats = np.round(logs / SCORE_STEP) * SCORE_STEP + 0.0
    return result

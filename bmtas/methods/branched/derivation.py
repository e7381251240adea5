"""From probabilities to the tree within the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmtas.config import Decode
from costs.decode import argmax_architecture, best_architecture
from costs.table import CostTable
from costs.units import Budget


def decode(
    how: Decode, probabilities: np.ndarray, table: CostTable, budgets: Sequence[Budget]
) -> tuple[Any, dict[str, Any]]:
    """Return the groupings (of task indices) that `probabilities` (L, T, C) give, and how they were found as plain JSON values."""
    if how is Decode.ARGMAX:
        return argmax_architecture(probabilities), {"decode": Decode.ARGMAX.value}
    decoded = best_architecture(probabilities, table, budgets)
    return decoded.groupings, {
        "decode": Decode.BEST.value,
        "log_probability": decoded.log_probability if np.isfinite(decoded.log_probability) else None,
        "exact": decoded.exact,
        "gap": decoded.gap if np.isfinite(decoded.gap) else None,
    }

"""From probabilities to the tree within the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmtas.checkpoint import load_checkpoint
from bmtas.config import Decode
from bmtas.expectation import read_probabilities
from bmtas.networks import inherited
from bmtas.networks.network import GraphNetwork
from bmtas.runs import Run
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


def inherit(run: Run, network: GraphNetwork) -> None:
    """Give the network found the weights that the search of `run` ended with. Raises UsageError or what a foreign checkpoint leads to."""
    inherited.inherit(network, load_checkpoint(run.search_folder / "checkpoint.pt")["network"], read_probabilities(run))

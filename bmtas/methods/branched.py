"""The paper's search under a budget: `bmtas.search`, then the most probable architecture within the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmtas.config import Decode
from bmtas.expectation import expect_run
from bmtas.files import read_lines, write_json
from bmtas.methods.finder import Found, named
from bmtas.networks.weights import Weights, load_weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.plots import draw_search
from bmtas.plots_over_time import draw_sharing
from bmtas.progress import Progress
from bmtas.runs import Run
from bmtas.search import Search
from costs.decode import argmax_architecture, best_architecture
from costs.table import CostTable
from costs.units import Budget


def build(plan: Plan, how: How) -> BranchedFinder:
    """Return the finder of `plan`. Raises what the data raise, and UsageError for batches that cannot be shared."""
    return BranchedFinder(plan, how)


class BranchedFinder:
    """Searches, keeps the probabilities, and decodes them within the budgets."""

    def __init__(self, plan: Plan, how: How) -> None:
        """Prepare everything that does not change."""
        self._plan, self._how = plan, how
        self._search = Search(plan.config, plan.dataset, plan.table, plan.budgets, how)
        self._weights: Weights | None = None
        self._probabilities = np.empty((0, 0, 0))

    def prepare(self, *, begun: bool) -> None:
        """Fetch the weights to begin from; what a checkpoint replaces anyway is not fetched again."""
        self._weights = None if begun else load_weights(self._plan.config.weights, self._search.backbone)

    def learn(self, run: Run, progress: Progress) -> None:
        """Search to the end, or go on with a search that was stopped."""
        self._probabilities = self._search.run(run.search_folder, self._weights, progress)
        self._how.parallel.decided(lambda: self._keep(run, self._probabilities))

    def derive(self, table: CostTable) -> Found:
        """Decode the probabilities."""
        groupings, details = decode(self._plan.config.decode, self._probabilities, table, self._plan.budgets)
        return Found(named(self._plan, groupings), details)

    def draw(self, run: Run, found: Found) -> None:
        """Draw the costs, the layers and how the sharing came about."""
        draw_search(run, expect_run(run))
        history = read_lines(run.search_folder / "history.jsonl")
        draw_sharing(history, list(found.architecture.tasks), run.search_folder / "sharing.png")

    def _keep(self, run: Run, probabilities: np.ndarray) -> None:
        """Write the probabilities before anything else: whatever comes after can be done again from them."""
        write_json(
            run.search_folder / "probabilities.json",
            {
                "schema_version": 1,
                "tasks": [task["name"] for task in self._plan.config.tasks],
                "layers": [layer.name for layer in self._plan.table.layers],
                "probabilities": probabilities.tolist(),
            },
        )


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

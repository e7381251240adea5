"""The paper's search under a budget: `bmtas.searching`, then the most probable tree within the budgets."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from bmtas.expectation import expect_run
from bmtas.files import read_lines, write_json
from bmtas.methods.branched.derivation import decode
from bmtas.methods.branched.relaxation import BranchedRelaxed
from bmtas.methods.finder import Found, named
from bmtas.methods.relaxed import Relaxed
from bmtas.networks.backbone import get_backbone
from bmtas.networks.weights import Weights, load_weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.plots import draw_search
from bmtas.plots_over_time import draw_sharing
from bmtas.progress import Progress
from bmtas.runs import Run
from bmtas.searching import Search
from costs.reach import budget_range
from costs.table import CostTable


def build(plan: Plan, how: How) -> BranchedFinder:
    """Return the finder of `plan`. Raises what the data raise, and UsageError for batches that cannot be shared."""
    return BranchedFinder(plan, how)


class BranchedFinder:
    """Searches, keeps the probabilities, and decodes them within the budgets."""

    def __init__(self, plan: Plan, how: How) -> None:
        """Prepare everything that does not change."""
        self._plan, self._how = plan, how
        self._search = branched_search(plan, how)
        self._weights: Weights | None = None
        self._probabilities = np.empty((0, 0, 0))

    def prepare(self, *, begun: bool) -> None:
        """Fetch the weights to begin from; what a checkpoint replaces anyway is not fetched again."""
        self._weights = (
            None if begun else load_weights(self._plan.config.weights, get_backbone(self._plan.config.backbone))
        )

    def learn(self, run: Run, progress: Progress) -> None:
        """Search to the end, or go on with a search that was stopped."""
        self._probabilities = probabilities_after(self._search.run(run.search_folder, self._weights, progress))
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


def branched_search(plan: Plan, how: How) -> Search:
    """Return the search of a plan, not yet begun. Raises what the data raise, and UsageError for batches not to be shared."""
    ranges = {budget.resource: budget_range(plan.table, budget.resource) for budget in plan.budgets}
    reaches = {resource: high - low for resource, (low, high) in ranges.items()}
    make = partial(BranchedRelaxed, plan.config, plan.table, plan.budgets, how.parallel)
    return Search(plan.config, plan.dataset, plan.budgets, reaches, how, make)


def probabilities_after(relaxed: Relaxed) -> npt.NDArray[np.float64]:
    """Return what a branched search has learned: the probability that task t takes candidate j in layer l, (L, T, C)."""
    assert isinstance(relaxed, BranchedRelaxed)
    return relaxed.probabilities()

"""Dynamic topologies under a budget: warm-up, search, flow-based reduction, and fine-tuning from the warm-up's weights.

After Choi & Im, "Dynamic neural network for multi-task learning: searching across diverse network topologies", CVPR 2023, of which
the supplement alone is public in full; `docs/dynamic.md` says what is theirs and what is our own choice. Fine-tuning is `bmtas train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bmtas.methods.dynamic.derivation import Reduced, flows_of, reduce_within, start_network, sum_scalars
from bmtas.methods.dynamic.pictures import draw_topologies
from bmtas.methods.dynamic.relaxation import CentralNetwork, RelaxedTopology
from bmtas.methods.dynamic.settings import Own, TuneFrom
from bmtas.methods.dynamic.space import TopologySpace
from bmtas.methods.dynamic.stages import snapshot
from bmtas.methods.finder import Found
from bmtas.methods.relaxed_finder import RelaxedFinder
from bmtas.networks.weights import Weights, load_weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.runs import Run
from costs.table import CostTable


def build(plan: Plan, how: How) -> TopologyFinder:
    """Return the finder of `plan`. Raises what the data raise, and UsageError for batches that cannot be shared."""
    return TopologyFinder(plan, how)


class TopologyFinder(RelaxedFinder):
    """Searches over all arcs and keeps those that carry the tasks' flow within the budgets."""

    settings = Own
    own: Own
    space: TopologySpace
    relaxed: RelaxedTopology

    def make_relaxed(self, weights: Weights | None) -> RelaxedTopology:
        """Return the network with all arcs."""
        network = CentralNetwork(self.space, self.tasks, weights)
        return RelaxedTopology(
            network, self.own, self.tasks, self.plan.config.search, self.how.parallel, self.plan.table
        )

    def derive(self, table: CostTable) -> Found:
        """Reduce to what is within the budgets, and rewind the weights. Raises BudgetError as `reduce_within`."""
        logits, reduced = self.relaxed.logits, self.reduced(table)
        return Found(
            self.space.architecture(reduced.kept),
            details_of(self.space, logits, reduced),
            start=start_network(self.space, self.tasks, reduced, logits, self.first_weights()),
        )

    def reduced(self, table: CostTable) -> Reduced:
        """Return what the tasks keep of what the search has learned, within the plan's budgets by `table`."""
        return reduce_within(self.space, self.relaxed.logits, self.own.keep_flow, table, self.plan.budgets)

    def first_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that fine-tuning begins with, as the settings have it."""
        if self.own.tune_from is TuneFrom.FRESH:
            torch.manual_seed(self.plan.config.seed)
            weights = load_weights(self.plan.config.weights, self.kit.backbone)
            return CentralNetwork(self.space, self.tasks, weights).state_dict()
        return self.relaxed.rewound if self.own.tune_from is TuneFrom.WARM_UP else snapshot(self.relaxed.network)

    def draw(self, run: Run, found: Found) -> None:
        """Draw what each task keeps."""
        draw_topologies(self.space, found.details["topologies"], run.search_folder / "topologies.png")


def details_of(space: TopologySpace, logits: Tensor, reduced: Reduced) -> dict[str, Any]:
    """Return what each task keeps, as plain JSON values.

    `arcs` are [source, target, scalar] with 0 for the image and n + 1 for the read-out, `flow` is the share of the task's flow
    that they carry, and with `agreed` the task had to take over the arcs of others to keep a budget.
    """
    told: dict[str, Any] = {}
    for t, (task, flow) in enumerate(zip(space.tasks, flows_of(space.topologies, logits), strict=True)):
        kept = reduced.kept[t]
        sums = {state: iter(values) for state, values in sum_scalars(flow, kept).items()}
        by_target = sorted(kept, key=lambda arc: (arc[1], arc[0]))
        arcs = [[i, j, next(sums[j]) if j in sums else 1.0] for i, j in by_target]
        told[task] = {"arcs": arcs, "flow": reduced.flows[t], "agreed": reduced.agreed[t]}
    return {"topologies": told}

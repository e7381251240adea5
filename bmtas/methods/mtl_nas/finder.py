"""MTL-NAS under a budget: networks of single tasks, then the edges between them, learned together with their weights.

Gao et al., "MTL-NAS: task-agnostic neural architecture search towards general-purpose multi-task learning", CVPR 2020. The network that
is found is trained by then: it is the relaxed network without the edges that are not kept. The paper has no budget; here a price on
the edges (`bmtas.methods.mtl_nas.price`) keeps the expected cost within it, and the derivation the cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bmtas.config import ResourceTermKind
from bmtas.methods.finder import Found
from bmtas.methods.mtl_nas.derivation import Kept, discretise, keep_within, trained_network
from bmtas.methods.mtl_nas.losses import entropies
from bmtas.methods.mtl_nas.pictures import draw_fusions, draw_probabilities
from bmtas.methods.mtl_nas.relaxation import RelaxedFusions, Supernet, start_from
from bmtas.methods.mtl_nas.settings import Init, Own
from bmtas.methods.mtl_nas.space import FusionSpace
from bmtas.methods.relaxed_finder import RelaxedFinder
from bmtas.networks.network import GraphNetwork
from bmtas.networks.weights import Weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.run_training import separate_network
from bmtas.runs import Run
from costs.table import CostTable


def build(plan: Plan, how: How) -> FusionFinder:
    """Return the finder of `plan`. Raises what the data raise, and UsageError for one task or batches that cannot be shared."""
    return FusionFinder(plan, how)


class FusionFinder(RelaxedFinder):
    """Trains the run's separate networks, searches from their weights, and cuts out what is not kept."""

    settings = Own
    own: Own
    space: FusionSpace
    relaxed: RelaxedFusions
    _separate: GraphNetwork | None = None

    def before(self, run: Run, progress: Progress) -> None:
        """Train the networks of single tasks that the search begins with, or go on with it."""
        if self.own.init is not Init.SEPARATE:
            return
        self._separate = separate_network(run, progress, self.how)

    def make_relaxed(self, weights: Weights | None) -> RelaxedFusions:
        """Return all backbones with all edges."""
        network = Supernet(self.space, self.tasks, weights, self.own.own_weight)
        if self._separate is not None:
            start_from(network, self._separate)
        settings, table = self.plan.config.search, self.plan.table
        steered = self.plan.budgets if settings.resource_term is ResourceTermKind.BUDGET else ()
        return RelaxedFusions(network, self.own, self.tasks, settings, self.how.parallel, table, steered)

    def derive(self, table: CostTable) -> Found:
        """Keep the edges within the budgets; the network has the weights of the search. Raises BudgetError as `keep_within`."""
        logits = self.relaxed.logits.detach()
        probabilities = torch.sigmoid(logits)
        wanted = discretise(probabilities, self.own.discretisation, self.plan.config.seed)
        kept = keep_within(self.space, probabilities, wanted, table, self.plan.budgets)
        return Found(
            self.space.architecture(kept.edges),
            details_of(self.space, logits, kept),
            trained=trained_network(self.relaxed.network, self.tasks, kept.edges),
        )

    def draw(self, run: Run, found: Found) -> None:
        """Draw the probabilities and the graph of the edges that are kept."""
        edges = found.details["edges"]
        draw_probabilities([edge["probability"] for edge in edges], run.search_folder / "probabilities.png")
        draw_fusions(self.space, [edge["kept"] for edge in edges], run.search_folder / "fusions.png")


def details_of(space: FusionSpace, logits: Tensor, kept: Kept) -> dict[str, Any]:
    """Return how sure the search was, as plain JSON values.

    `entropy` is the mean over edges in nats: where it is far from 0, the relaxed network computes something else than the one found.
    `dropped` are edges that the search wanted and the budgets do not allow.
    """
    told = zip(space.edges, torch.sigmoid(logits).tolist(), kept.edges, kept.wanted, strict=True)
    edges = [
        {
            "task": edge.task,
            "node": edge.node,
            "source_task": edge.source_task,
            "source_node": edge.source_node,
            "probability": probability,
            "kept": keep,
            "dropped": want and not keep,
        }
        for edge, probability, keep, want in told
    ]
    return {"entropy": float(entropies(logits).mean()), "edges": edges}

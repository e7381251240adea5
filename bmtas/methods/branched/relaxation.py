"""The supergraph as a relaxed network: C candidates in every layer, and for each task and layer a distribution over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bmtas.config import Estimator, RunConfig
from bmtas.data.batches import Batch
from bmtas.methods.branched.losses import expected_costs
from bmtas.methods.branched.stages import mixes, probabilities_of
from bmtas.methods.relaxed import Losses, Moment, Shown
from bmtas.networks.backbone import get_backbone
from bmtas.networks.supergraph import Supergraph
from bmtas.networks.weights import Weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.parallel import Parallel
from bmtas.resource_term import shown_resources
from bmtas.schedule import ARCH, WEIGHTS
from bmtas.updates import Updates, choose_updates
from bmtas.view import current_tree, grouping_entropy
from costs.table import CostTable
from costs.units import Budget, Resource

_ARCH_WEIGHT_DECAY = 5e-5  # paper, appendix A
_DIGITS = 4
"""Of the probabilities in the history, which are there to be looked at."""


class BranchedRelaxed:
    """The supergraph, and the logits (L, T, C) under `architecture`."""

    # Paper: the optimiser's momentum is reset after every change to the architecture.
    fresh_optimisers = True

    def __init__(
        self,
        config: RunConfig,
        table: CostTable,
        budgets: Sequence[Budget],
        parallel: Parallel,
        weights: Weights | None,
    ) -> None:
        """Build the supergraph, its candidates from `weights` (None: random)."""
        self._settings, self._table, self._parallel = config.search, table, parallel
        self._resources = shown_resources(budgets)
        self.tasks = config.task_list()
        self.network = Supergraph(get_backbone(config.backbone), self.tasks, weights)
        self.network.checkpointing = self._settings.activation_checkpointing
        self.architecture = {"logits": torch.zeros(self.network.shape, requires_grad=True)}  # paper: zeros

    @property
    def logits(self) -> Tensor:
        """The architecture parameters, (L, T, C)."""
        return self.architecture["logits"]

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probability that task t takes candidate j in layer l, (L, T, C)."""
        values: npt.NDArray[np.float64] = probabilities_of(self.logits).numpy()
        return values

    def prepare(self, images: Callable[[], Tensor], parallel: Parallel) -> None:
        """Choose the form of each layer that is faster here, in the first process for all."""
        if self._settings.estimator is Estimator.SOFT:
            batch = images()
            self.network.forms = parallel.decided(lambda: self.network.choose_forms(batch))

    def compile(self) -> None:
        """Compile layer by layer."""
        self.network.compile_layers()

    def begin(self, phase: str) -> None:
        """Reset the normalisations' statistics before weights are trained again (paper, appendix A)."""
        if phase == WEIGHTS:
            self.network.reset_statistics()

    def end_warmup(self) -> None:
        """Keep nothing."""

    def temperature(self, moment: Moment) -> float:
        """Return the linear one of the settings."""
        return moment.temperature

    def optimiser(self, phase: str) -> torch.optim.Optimizer:
        """Return a new optimiser of the logits or of the weights (paper, appendix A)."""
        if phase == ARCH:
            rate = self._settings.arch_learning_rate
            return torch.optim.Adam([self.logits], lr=rate, weight_decay=_ARCH_WEIGHT_DECAY)
        return weight_optimiser(self._settings.optimiser, self.network.parameters(), self._settings.learning_rate)

    def set_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """Follow the poly policy."""
        set_poly_rate(optimiser, progress)

    def learn_weights(self, batch: Batch, moment: Moment, optimiser: torch.optim.Optimizer) -> Losses:
        """Update the weights on one batch, in the warm-up each task by itself on its own candidates."""
        return self._updates().learn_weights(batch, mixes(self.logits.detach(), moment), optimiser)

    def add_gradients(self, batch: Batch, moment: Moment) -> Losses:
        """Add the gradient of the tasks' weighted losses to the logits."""
        return self._updates().add_gradients(batch, mixes(self.logits, moment))

    def regularisation(self, moment: Moment) -> Tensor:
        """Add nothing."""
        return torch.zeros(())

    def expected(self) -> dict[Resource, Tensor]:
        """Return the expected cost of the tree in each resource, scalars in base units."""
        return expected_costs(self.logits, self._table, self._resources, self._settings.cost_estimate)

    def shown(self) -> Shown:
        """Tell the tree of the most probable candidates, and how certain the groupings are."""
        probabilities = self.probabilities()
        tree = current_tree(probabilities, [task.name for task in self.tasks])
        record: dict[str, Any] = {"probabilities": probabilities.round(_DIGITS).tolist(), "tree": tree}
        texts = {"tree of the most probable candidates": tree}
        entropy = grouping_entropy(probabilities)
        if entropy is not None:
            record["entropy"] = entropy
            texts["entropy of the groupings"] = f"{entropy:.2f} nats"
        return Shown(record, texts)

    def state_dict(self) -> dict[str, Any]:
        """Return the forms of the layers."""
        return {"forms": list(self.network.forms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the forms of the layers."""
        self.network.forms = tuple(state["forms"])

    def _updates(self) -> Updates:
        return choose_updates(self._settings, self.network, self.tasks, self._parallel)

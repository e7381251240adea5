"""AutoMTL under a budget: pre-training, policies and weights in turn, then the best of several sampled policies.

Zhang et al., "AutoMTL: a programming framework for automating efficient multi-task learning", NeurIPS 2022, with its supplement and code.
The network that is found is trained from scratch by `bmtas train`, which the paper finds better than to go on from the weights of the
search (supplement, table 9); `bmtas train --init search` does the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bmtas.data.batches import Loader, split_indices
from bmtas.data.chosen import spread
from bmtas.methods.automtl.derivation import (
    Derived,
    Policy,
    derive_policy,
    sample_policies,
    task_correlation,
    validation_losses,
)
from bmtas.methods.automtl.pictures import draw_policies
from bmtas.methods.automtl.prices import Choices, Floats
from bmtas.methods.automtl.relaxation import RelaxedPolicies, Supermodel
from bmtas.methods.automtl.settings import Own
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.finder import Found
from bmtas.methods.relaxed_finder import RelaxedFinder
from bmtas.networks.weights import Weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.plots_affinity import draw_affinities
from bmtas.progress import Progress
from bmtas.runs import Run
from costs.table import CostTable

_DIGITS = 4


def build(plan: Plan, how: How) -> PolicyFinder:
    """Return the finder of `plan`. Raises what the data raise, and UsageError for batches that cannot be shared."""
    return PolicyFinder(plan, how)


class PolicyFinder(RelaxedFinder):
    """Searches over the branches of all convolutions, samples policies, and takes the best one within the budgets."""

    settings = Own
    own: Own
    space: ConvolutionSpace
    relaxed: RelaxedPolicies

    def make_relaxed(self, weights: Weights | None) -> RelaxedPolicies:
        """Return the network with all branches."""
        network = Supermodel(self.space, replace(self.kit, weights=weights))
        return RelaxedPolicies(
            network, self.own, self.tasks, self.plan.config.search, self.how.parallel, self.plan.table
        )

    def learn(self, run: Run, progress: Progress) -> None:
        """Search, then sample policies and compare them, which all processes do together: their normalisations are joint ones."""
        super().learn(run, progress)
        probabilities = self.relaxed.probabilities().detach().numpy()
        self._sampled = sample_policies(probabilities, self.own.policies, self.plan.config.seed)
        self._losses = self._compared(self._sampled)

    def derive(self, table: CostTable) -> Found:
        """Take the best of the sampled policies that are within the budgets. Raises BudgetError as `derive_policy`."""
        probabilities = self.relaxed.probabilities().detach().numpy()
        derived = derive_policy(self.space, probabilities, table, self.plan.budgets, self._sampled, self._losses)
        return Found(self.space.architecture(derived.taken.choices), details_of(self.space, probabilities, derived))

    def draw(self, run: Run, found: Found) -> None:
        """Draw the policies and how alike they are."""
        details, tasks = found.details, list(found.architecture.tasks)
        shown = np.array(details["probabilities"]), np.array(details["choices"])
        draw_policies(tasks, details["convolutions"], *shown, run.search_folder / "policies.png")
        correlation = {"correlation of the policies": np.array(details["task_correlation"])}
        draw_affinities(correlation, tasks, run.search_folder / "correlation.png")

    def _compared(self, policies: Sequence[Choices]) -> list[float]:
        """Return the losses of policies on some images of the architecture share, unaugmented; alike in all processes."""
        config, parallel = self.plan.config, self.how.parallel
        loader = Loader(self.plan.dataset, "train", self.tasks, config.search_size)
        images, _ = split_indices(loader.count, config.search.arch_share, config.seed)
        size = config.search.batch_size
        chosen = [images[i] for i in spread(len(images), size * self.own.validation_batches)]
        # Whole batches, as in the search: normalisations take their statistics from them.
        chosen = (chosen * size)[: max(len(chosen) // size, 1) * size]
        cuts = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        batches = [loader.batch(cut).to(parallel.device) for cut in cuts]
        found = validation_losses(self.relaxed.network, self.tasks, batches, policies)
        return parallel.decided(lambda: found)


def details_of(space: ConvolutionSpace, probabilities: Floats, derived: Derived) -> dict[str, Any]:
    """Return how the network was found, as plain JSON values.

    `choices` are 0 shared, 1 own, 2 skipped, by task and convolution. `policies` are the sampled ones; with `repaired` none of them was
    within the budgets.
    """
    return {
        "convolutions": [space.trace.operations[place].name for place in space.trace.convs],
        "probabilities": probabilities.round(_DIGITS).tolist(),
        "choices": derived.taken.choices.tolist(),
        "log_probability": _finite(derived.taken.log_probability),
        "repaired": derived.repaired,
        "policies": [_told(policy) for policy in derived.sampled],
        "task_correlation": task_correlation(probabilities).round(_DIGITS).tolist(),
    }


def _told(policy: Policy) -> dict[str, Any]:
    return {
        "log_probability": _finite(policy.log_probability),
        **policy.costs,
        "within": policy.within,
        "loss": policy.loss,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

"""The way to a network that shares by a fixed rule: train what it begins from, and take it if it is within the budgets."""

from __future__ import annotations

import torch

from bmtas.errors import BudgetError, UsageError
from bmtas.methods.finder import Found
from bmtas.methods.sharing.paths import take_over
from bmtas.methods.sharing.settings import Init
from bmtas.methods.sharing.space import NETWORKS, initial, open_space
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.operations import Kit
from bmtas.networks.weights import Weights, load_weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.run_training import separate_network
from bmtas.runs import Run
from bmtas.tables import architecture_costs
from costs.table import CostTable
from costs.units import format_quantity


def build(plan: Plan, how: How) -> SharingFinder:
    """Return the finder of `plan`. Raises UsageError for settings that its method cannot have."""
    return SharingFinder(plan, how)


class SharingFinder:
    """Trains the run's separate networks, where the network begins from them; nothing else has to be found out."""

    def __init__(self, plan: Plan, how: How) -> None:
        """Wire the network. Raises UsageError for settings that the method cannot have."""
        self._plan, self._how = plan, how
        config = plan.config
        self._tasks, self._backbone = config.task_list(), get_backbone(config.backbone)
        self._init = initial(config.method, config.own)
        kit = Kit(self._backbone, {task.name: task for task in self._tasks})
        self._architecture = open_space(config.method, kit, config.own).architecture
        self._weights: Weights | None = None
        self._separate: GraphNetwork | None = None

    def prepare(self, *, begun: bool) -> None:
        """Raise BudgetError for a budget below what the network costs; fetch the backbone's weights if it begins from them."""
        self._require_within(self._plan.table)
        # Separate networks fetch their own when they are trained; that it can be done is found out before there is a run folder.
        weights = load_weights(self._plan.config.weights, self._backbone)
        if self._init is Init.BACKBONE and NETWORKS[self._plan.config.method].start is not None:
            self._weights = weights

    def learn(self, run: Run, progress: Progress) -> None:
        """Train the separate networks, or go on with it."""
        if self._init is not Init.SEPARATE:
            return
        self._separate = separate_network(run, progress, self._how)

    def derive(self, table: CostTable) -> Found:
        """Return the network with its first weights. Raises BudgetError as `prepare` does, by `table`."""
        self._require_within(table)
        config = self._plan.config
        set_first, details = NETWORKS[config.method].start, {"init": self._init.value}
        if set_first is None:
            return Found(self._architecture, details)
        torch.manual_seed(config.seed)
        network = build_network(self._architecture, self._tasks, self._weights)
        if self._separate is not None:
            take_over(network, self._separate)
        set_first(network)
        return Found(self._architecture, details, start=network)

    def draw(self, run: Run, found: Found) -> None:
        """Draw nothing: the network is the same in every run."""

    def _require_within(self, table: CostTable) -> None:
        method, costs = self._plan.config.method.value, architecture_costs(table, self._architecture)
        for budget in self._plan.budgets:
            if budget.resource not in costs:
                raise UsageError(
                    f"budget {budget.text}: {budget.resource} of --method {method} is not known, only multiply-adds and parameters of "
                    "single operations are; give a budget in MAdds or Params, or leave it out"
                )
            cost = costs[budget.resource]
            if cost > budget.value:
                raise BudgetError(
                    f"budget {budget.text}: --method {method} makes one network, which costs {format_quantity(cost, budget.resource, digits=4)}; "
                    "raise the budget, leave it out, or take another --method"
                )

"""Architectures that need no learning: single, shared, vanilla, random and permuted ones (paper, sections 4.1 and 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bmtas.architecture import Architecture, BranchedArchitecture, tree_of
from bmtas.config import Method
from bmtas.errors import BudgetError
from bmtas.methods.finder import Found, named
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.runs import Run
from costs.table import CostTable
from costs.trees import Tree, permuted_tree, random_tree_within, vanilla_tree
from costs.units import Budget, format_quantity


def build(plan: Plan, how: How) -> FixedFinder:
    """Return the finder of `plan`; nothing here depends on `how`."""
    return FixedFinder(plan)


class FixedFinder:
    """Makes the architecture from the cost table, the budgets and the seed alone."""

    def __init__(self, plan: Plan) -> None:
        """Take a plan whose method is one of those of this module."""
        self._plan = plan

    def prepare(self, *, begun: bool) -> None:
        """Make the architecture once. Raises BudgetBelowReach, BudgetError or CostError where there is none."""
        self.derive(self._plan.table)

    def learn(self, run: Run, progress: Progress) -> None:
        """Learn nothing."""

    def draw(self, run: Run, found: Found) -> None:
        """Draw nothing beside the tree."""

    def derive(self, table: CostTable) -> Found:
        """Return the architecture. Raises as `prepare` does."""
        config, budgets = self._plan.config, self._plan.budgets
        names, layers = [task["name"] for task in config.tasks], len(table.layers)
        details: dict[str, Any] = {}
        if config.method is Method.SINGLE:
            return Found(
                replace(BranchedArchitecture.separate(config.backbone, names, layers), method=config.method.value)
            )
        if config.method is Method.SHARED:
            return Found(
                replace(BranchedArchitecture.shared(config.backbone, names, layers), method=config.method.value)
            )
        if config.method is Method.VANILLA:
            tree = vanilla_tree(table, budgets)
        elif config.method is Method.RANDOM:
            tree, share = random_tree_within(table, budgets, config.seed)
            details["share_of_budget"] = share
        else:
            reference = tree_of(Architecture.from_json(config.reference or {}, "the reference"))
            # By name, because the order of tasks may be another one there.
            indices = [[[names.index(t) for t in block] for block in grouping] for grouping in reference.groupings]
            tree = permuted_tree(indices, config.seed)
            _require_within(tree, table, budgets)
        return Found(named(self._plan, tree), details)


def _require_within(tree: Tree, table: CostTable, budgets: Sequence[Budget]) -> None:
    """Raise BudgetError where `tree` costs more than a budget."""
    for budget in budgets:
        cost = table.architecture_cost(tree, budget.resource)
        if cost > budget.value:
            raise BudgetError(
                f"budget {budget.text}: the permuted tree costs {format_quantity(cost, budget.resource, digits=4)}; leave the budget "
                "out, or permute the tree of a run within it"
            )

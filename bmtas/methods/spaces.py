"""The spaces and settings of methods whose networks are no trees, by method."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING
from typing import Any

from pydantic import ValidationError

from bmtas.config import Method, Preset, RunConfig
from bmtas.errors import BudgetError, UsageError, nearest
from bmtas.methods.space import COUNTED, Space
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget


def kit_of(config: RunConfig) -> Kit:
    """Return the backbone and tasks of a run, without pretrained weights. Raises UsageError for an unknown backbone."""
    return Kit(get_backbone(config.backbone), {task.name: task for task in config.task_list()})


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> Space:
    """Return the space of `method` for the backbone and tasks of `kit`. Raises UsageError where the method cannot have them."""
    module = importlib.import_module(f"bmtas.methods.{method.folder}.space")
    space: Space = module.open_space(method, kit, own)
    return space


def own_settings(method: Method, preset: Preset, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return all of the method's own settings as plain JSON values: the preset's, with what was `asked` for in their place.

    Raises UsageError naming the settings that there are.
    """
    if method.one_module or not importlib.import_module(_settings_module(method)).Own.model_fields:
        if asked:
            raise UsageError(
                f"--set {next(iter(asked))}: --method {method.value} has no settings of its own; leave it out"
            )
        return {}
    module = importlib.import_module(_settings_module(method))
    known = list(module.Own.model_fields)
    for name in asked:
        if name not in known:
            raise UsageError(f"--set {name}: unknown setting of --method {method.value}; {nearest(name, known)}")
    try:
        values: dict[str, Any] = module.Own.model_validate({**module.OWN.get(preset.value, {}), **asked}).model_dump(
            mode="json"
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "settings"
        raise UsageError(f"--set {where}={problem['input']}: {problem['msg'].lower()}") from None
    return values


def _settings_module(method: Method) -> str:
    return f"bmtas.methods.{method.folder}.settings"


def preset_overrides(method: Method, preset: Preset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the method changes in a preset's settings of search and of training."""
    if method.one_module:
        return {}, {}
    module = importlib.import_module(_settings_module(method))
    return module.SEARCH.get(preset.value, {}), module.TRAIN.get(preset.value, {})


def space_budgets(
    asked: Sequence[Budget], method: Method, space: Space, table: CostTable, *, steered: bool
) -> tuple[list[Budget], list[str]]:
    """Return the budgets of a method whose networks are no trees, and notes; halfway of its reach where a search needs one.

    Raises UsageError for a resource that is not counted, BudgetError for a budget below the cheapest network of the space.
    """
    notes: list[str] = []
    for budget in asked:
        if budget.resource not in COUNTED:
            raise UsageError(
                f"budget {budget.text}: --method {method.value} makes networks that are no trees, whose {budget.resource} no table states "
                "before they are built; give a budget in MAdds or Params and measure the network found with `bmtas bench`, or take --method branched"
            )
    if len({b.resource for b in asked}) < len(asked):
        raise UsageError("one budget per resource: " + ", ".join(b.text for b in asked) + " name one twice")
    budgets = list(asked)
    low, high = space.reach(table, Resource.MADDS) if not budgets and steered else (0.0, 0.0)
    if low < high:
        text = format_quantity((low + high) / 2, Resource.MADDS, digits=4, rounding=ROUND_CEILING).replace(" ", "")
        budgets = [parse_budget(text)]
        notes.append(
            f"no --budget given: {text}, halfway between the cheapest and the dearest network of --method {method.value}"
        )
    for budget in budgets:
        low, high = space.reach(table, budget.resource)
        if budget.value < low:
            # Rounded up, so that what is told can be asked for.
            told = [format_quantity(v, budget.resource, digits=4, rounding=ROUND_CEILING) for v in (low, high)]
            reach = f"costs {told[0]}" if low == high else f"reaches from {told[0]} to {told[1]}"
            other = table.shared_total(budget.resource) <= budget.value
            advice = ", or take --method branched, which shares whole layers" if other else ""
            raise BudgetError(
                f"budget {budget.text}: --method {method.value} {reach} for these tasks on {table.backbone}; raise the budget{advice}"
            )
        if budget.value >= high > low:
            notes.append(
                f"budget {budget.text} is no constraint: the dearest network of --method {method.value} costs "
                f"{format_quantity(high, budget.resource)}"
            )
    if len(budgets) > 1:
        space.check(table, budgets)
    if budgets and method.searches and not steered:
        notes.append("the search is not steered by the budget; only the network that is handed over keeps it")
    if len(table.tasks) == 1:
        notes.append("one task: there is nothing to share")
    return budgets, notes

"""The spaces and settings of methods whose networks are no trees, by method."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bmtas.config import Method, Preset
from bmtas.errors import BudgetError, UsageError, nearest
from bmtas.methods.space import Space
from bmtas.networks.operations import Kit
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget

_COUNTED = (Resource.MADDS, Resource.PARAMS)


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> Space:
    """Return the space of `method` for the backbone and tasks of `kit`. Raises UsageError where the method cannot have them."""
    module = importlib.import_module(f"bmtas.methods.{method.folder}.space")
    space: Space = module.open_space(method, kit, own)
    return space


def own_settings(method: Method, preset: Preset, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return all of the method's own settings as plain JSON values: the preset's, with what was `asked` for in their place.

    Raises UsageError naming the settings that there are.
    """
    if method.folder in ("branched", *_WITHOUT_FOLDER):
        if asked:
            raise UsageError(
                f"--set {next(iter(asked))}: --method {method.value} has no settings of its own; leave it out"
            )
        return {}
    module = importlib.import_module(f"bmtas.methods.{method.folder}.settings")
    known = list(module.Own.model_fields)
    for name in asked:
        if name not in known:
            raise UsageError(
                f"--set {name}: unknown setting of --method {method.value}; {nearest(name, known)}. There are {', '.join(known)}"
            )
    try:
        values: dict[str, Any] = module.Own.model_validate({**module.OWN.get(preset.value, {}), **asked}).model_dump(
            mode="json"
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "settings"
        raise UsageError(f"--set {where}={problem['input']}: {problem['msg'].lower()}") from None
    return values


_WITHOUT_FOLDER = ("single", "shared", "vanilla", "random", "permuted", "fafs", "bmn")


def preset_overrides(method: Method, preset: Preset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the method changes in a preset's settings of search and of training."""
    if method.folder in _WITHOUT_FOLDER:
        return {}, {}
    module = importlib.import_module(f"bmtas.methods.{method.folder}.settings")
    return module.SEARCH.get(preset.value, {}), module.TRAIN.get(preset.value, {})


def space_budgets(
    asked: Sequence[Budget], method: Method, space: Space, table: CostTable, *, steered: bool
) -> tuple[list[Budget], list[str]]:
    """Return the budgets of a method whose networks are no trees, and notes; halfway of its reach where a search needs one.

    Raises UsageError for a resource that is not counted, BudgetError for a budget below the cheapest network of the space.
    """
    notes: list[str] = []
    for budget in asked:
        if budget.resource not in _COUNTED:
            raise UsageError(
                f"budget {budget.text}: --method {method.value} makes networks that are no trees, whose {budget.resource} no table states "
                "before they are built; give a budget in MAdds or Params, or take --method branched"
            )
    if len({b.resource for b in asked}) < len(asked):
        raise UsageError("one budget per resource: " + ", ".join(b.text for b in asked) + " name one twice")
    budgets = list(asked)
    if not budgets and steered:
        low, high = space.reach(table, Resource.MADDS)
        text = format_quantity((low + high) / 2, Resource.MADDS, digits=4).replace(" ", "")
        budgets = [parse_budget(text)]
        notes.append(
            f"no --budget given: {text}, halfway between the cheapest and the dearest network of --method {method.value}"
        )
    for budget in budgets:
        low, high = space.reach(table, budget.resource)
        if budget.value < low:
            told = [format_quantity(value, budget.resource, digits=4) for value in (low, high)]
            reach = f"is {told[0]}" if low == high else f"reaches from {told[0]} to {told[1]}"
            raise BudgetError(
                f"budget {budget.text}: --method {method.value} {reach} for these tasks on {table.backbone}; raise the budget, or take "
                "--method branched, which shares whole layers"
            )
        if budget.value >= high > low:
            notes.append(
                f"budget {budget.text} is no constraint: the dearest network of --method {method.value} costs "
                f"{format_quantity(high, budget.resource)}"
            )
    return budgets, notes

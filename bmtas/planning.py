"""What a search is asked for, made into a plan: every setting resolved and checked, nothing written yet."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bmtas.architecture import Architecture
from bmtas.config import (
    PRESETS,
    Decode,
    Method,
    Preset,
    ResourceTermKind,
    RunConfig,
    SearchSettings,
    TrainSettings,
    reduced_size,
)
from bmtas.data.batches import split_indices
from bmtas.data.chosen import labelled
from bmtas.data.protocol import Dataset
from bmtas.data.source import canonical, open_with_tasks
from bmtas.errors import BudgetError, UsageError, nearest
from bmtas.method_options import means_nothing
from bmtas.methods.space import with_operations
from bmtas.methods.spaces import open_space, own_settings, preset_overrides, space_budgets
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.networks.weights import check_weights
from bmtas.parallel import check_shares
from bmtas.profile import build_table
from bmtas.ranks import processes
from bmtas.tables import digest, read_table
from bmtas.tasks import Task
from bmtas.trial import try_kinds
from costs.decode import best_architecture
from costs.errors import BudgetBelowReach
from costs.join import join_tables
from costs.lattice import MOST_INTERVAL_TASKS
from costs.reach import budget_range, check_budgets
from costs.splits import MOST_DECODED_TASKS
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget

_OF_A_SEARCH = {
    "warmup_steps": "--warmup-steps",
    "weight_steps": "--search-steps",
    "learning_rate": "--search-learning-rate",
    "estimator": "--estimator",
    "activation_checkpointing": "--activation-checkpointing",
    "resource_term": "--resource-weight or --no-resource-term",
    "cost_estimate": "--cost-estimate",
}
"""Settings that not every method has, with their options."""
_FIELDS = {
    "decode": ("--decode", Decode.BEST),
    "search_size": ("--search-size", None),
    "no_resizing": ("--no-resizing", False),
    "own": ("--set", None),
    "budgets": ("--budget", ()),
}
"""Fields of a request that not every method has, with their options and what they are where nothing is asked."""
_CHECKED_LATER = ("--set", "--budget")
"""Options that are looked at more closely where they are typed: each setting by its name, a budget against the network."""
_OF_BOTH = {"batch_size": "--batch-size", "accumulate": "--accumulate", "precision": "--precision"}
_SEARCH_OPTIONS = {**_OF_A_SEARCH, **_OF_BOTH, "resource_weight": "--resource-weight"}
_TRAIN_OPTIONS = {**_OF_BOTH, "steps": "--train-steps", "learning_rate": "--train-learning-rate"}


@dataclass(frozen=True)
class Request:
    """What the user asked of a search; None stands for the preset's or the data's own choice. Sizes are (height, width).

    `table` is a file with a cost table of the user's own, whose resources are added to the counted ones. `reference` is the
    architecture that the method "permuted" permutes, and no other method takes. `own` are settings of the method alone, as text.
    `usual` names options, such as --search-steps, that are set for searches in general: where they mean nothing to the method
    they are left out, where all others are refused.
    """

    data: str = "scenes"
    method: Method = Method.BRANCHED
    reference: Architecture | None = None
    tasks: list[str] | None = None
    backbone: str = "mobilenet_v2"
    budgets: tuple[str, ...] = ()
    decode: Decode = Decode.BEST
    table: Path | None = None
    preset: Preset = Preset.QUICK
    weights: str | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    search_size: tuple[int, int] | None = None
    no_resizing: bool = False
    train_size: tuple[int, int] | None = None
    own: dict[str, str] | None = None
    search_overrides: dict[str, Any] | None = None
    train_overrides: dict[str, Any] | None = None
    usual: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """A search that can start: everything checked, nothing written yet. `notes` say what the user should know."""

    config: RunConfig
    table: CostTable
    budgets: tuple[Budget, ...]
    dataset: Dataset
    notes: tuple[str, ...]


def plan_search(request: Request) -> Plan:
    """Resolve a request. Raises UsageError where it breaks a rule, BudgetError where no network can be within it."""
    backbone = get_backbone(request.backbone)
    dataset, tasks = open_with_tasks(request.data, request.tasks)
    if len(tasks) > MOST_DECODED_TASKS:
        raise UsageError(
            f"{len(tasks)} tasks; architectures can be searched for up to {MOST_DECODED_TASKS}, so name fewer with --tasks"
        )
    _check_reference(request, [task.name for task in tasks])
    request, left_out = _without_idle(request)
    try_kinds(tasks)
    size = request.size or dataset.size
    own_table = None if request.table is None else read_table(request.table)
    table = build_table(backbone, tasks, size)
    if own_table is not None:
        table = join_tables(table, own_table, str(request.table))
    own = own_settings(request.method, request.preset, request.own or {})
    search, train = _settings(request, dataset, tasks)
    table, budgets, notes = _within_reach(
        request, table, Kit(backbone, {task.name: task for task in tasks}), own, search
    )
    if request.decode is Decode.ARGMAX and budgets:
        raise UsageError("--decode argmax keeps no budget; it goes with --resource-weight or --no-resource-term alone")
    search_size, train_size = _sizes(request, size)
    if not hasattr(dataset, "splits"):  # generated data, which not every size can be made of; files can be resized
        for asked_size in {train_size, *([search_size] if request.method.searches else [])}:
            dataset.load("train", 0, size=asked_size, tasks=())
    weights = request.weights or PRESETS[request.preset].weights
    if weights not in ("none", "imagenet"):
        weights = str(Path(weights).expanduser().resolve())
    check_weights(weights, backbone)
    if weights == "none":
        whose = "" if request.weights else f", as the preset {request.preset.value} has it"
        better = "" if backbone.weights_name is None else " (--weights imagenet)"
        notes.append(f"weights: random{whose}; pretrained ones usually give better networks{better}")
    if train_size != size:
        notes.append(
            f"training and metrics at {_text(train_size)}, search at {_text(search_size)}; costs, export and latency are those "
            f"of the deployed size {_text(size)}"
        )
    config = RunConfig(
        data=canonical(request.data),
        data_fingerprint=dataset.fingerprint(),
        tasks=[task.to_json() for task in tasks],
        backbone=backbone.name,
        weights=weights,
        budgets=[b.text for b in budgets],
        preset=request.preset,
        seed=request.seed,
        deploy_size=size,
        search_size=search_size,
        train_size=train_size,
        search=search,
        train=train,
        table_digest=None if own_table is None else digest(own_table),
        decode=request.decode,
        method=request.method,
        reference=None if request.reference is None else request.reference.to_json(),
        own=own,
    )
    return Plan(config, table, tuple(budgets), dataset, (*left_out, *notes))


def _settings(request: Request, dataset: Dataset, tasks: Sequence[Task]) -> tuple[SearchSettings, TrainSettings]:
    """Return the preset's settings as the method changes them, with the request's own in their place."""
    preset = PRESETS[request.preset]
    of_search, of_train = preset_overrides(request.method, request.preset)
    search = _overridden(preset.search, of_search | _given(request.search_overrides), _SEARCH_OPTIONS)
    if preset.whole_passes and "weight_steps_per_cycle" not in of_search:
        images = labelled(dataset, "train", [task.name for task in tasks])
        search = _whole_passes(search, len(images), request.seed)
    train = _overridden(preset.train, of_train | _given(request.train_overrides), _TRAIN_OPTIONS)
    for settings in (search, train):
        check_shares(settings.batch_size, settings.accumulate, processes())
    return search, train


def _within_reach(
    request: Request, table: CostTable, kit: Kit, own: Mapping[str, Any], search: SearchSettings
) -> tuple[CostTable, list[Budget], list[str]]:
    """Return the table with the operations of the method, the budgets, and notes. Raises BudgetError below what the method reaches."""
    asked, method = [parse_budget(text) for text in request.budgets], request.method
    if not method.wired:
        return table, *_budgets(asked, table, method, search.resource_term)
    space = open_space(method, kit, own)
    table = with_operations(table, space, kit)
    steered = method.searches and search.resource_term is ResourceTermKind.BUDGET
    return table, *space_budgets(asked, method, space, table, steered=steered)


def _sizes(request: Request, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the sizes of the images in search and training, for the deployed `size`; all are (height, width)."""
    preset = PRESETS[request.preset]
    searched = request.search_size or _smaller(size, preset.search_pixels, preset.search_scale)
    return size if request.no_resizing else searched, request.train_size or _smaller(size, preset.train_pixels)


def _given(overrides: dict[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (overrides or {}).items() if v is not None}


def _overridden(settings: Any, overrides: dict[str, Any], options: dict[str, str]) -> Any:
    """Return `settings` with some fields replaced, checked again. Raises UsageError naming the `options` of the fields."""
    try:
        return type(settings).model_validate({**settings.model_dump(), **overrides})
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])), e) for e in error.errors()]
        unknown = [name for name, e in found if e["type"] == "extra_forbidden"]
        if unknown:
            raise UsageError(
                f"unknown setting {unknown[0]!r}; {nearest(unknown[0], type(settings).model_fields)}"
            ) from None
        raise UsageError(
            "; ".join(f"{options.get(name, name)} {e['input']!r}: {e['msg'].lower()}" for name, e in found)
        ) from None


def _whole_passes(search: SearchSettings, images: int, seed: int) -> SearchSettings:
    """Return the settings with cycles of one pass over both parts of `images` training images (paper, appendix A)."""
    arch, weights = (max(1, len(part) // search.batch_size) for part in split_indices(images, search.arch_share, seed))
    return search.model_copy(update={"arch_steps_per_cycle": arch, "weight_steps_per_cycle": weights})


def _smaller(size: tuple[int, int], pixels: int | None, scale: float = 1.0) -> tuple[int, int]:
    bounds = [] if pixels is None else [pixels]
    if scale < 1.0:
        bounds.append(int(size[0] * size[1] * scale * scale))
    return reduced_size(size, min(bounds, default=None))


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def resolve_budgets(asked: Sequence[Budget], table: CostTable) -> tuple[list[Budget], list[str]]:
    """Check budgets against what the table can reach; return them, or one halfway, and what the user should know of them.

    Raises BudgetError below the reach, UsageError for doubled resources and for costs that a search could not expect.
    """
    notes: list[str] = []
    _check_once(asked)
    if not asked:
        halfway = (table.shared_total(Resource.MADDS) + table.separate_total(Resource.MADDS)) / 2
        text = format_quantity(halfway, Resource.MADDS, digits=4, rounding=ROUND_CEILING).replace(" ", "")
        asked = [parse_budget(text)]
        notes.append(f"no --budget given: {text}, halfway between all shared and separate networks")
    for budget in asked:
        _check_expected(table, budget)
    if len(table.tasks) == 1:
        notes.append("one task: there is nothing to share, so the search only goes through its motions")
    try:
        check_budgets(table, asked)
    except BudgetBelowReach as error:
        raise BudgetError(str(error)) from None
    _check_together(table, asked)
    for budget in asked:
        split, separate = table.split_total(budget.resource), table.separate_total(budget.resource)
        if budget.value >= budget_range(table, budget.resource)[1]:
            notes.append(
                f"budget {budget.text} is no constraint: sharing only the stem costs {format_quantity(split, budget.resource)}, "
                f"separate networks {format_quantity(separate, budget.resource)}"
            )
    return list(asked), notes


def _check_once(budgets: Sequence[Budget]) -> None:
    """Raise UsageError where two budgets are for one resource."""
    if len({b.resource for b in budgets}) < len(budgets):
        raise UsageError("one budget per resource: " + ", ".join(b.text for b in budgets) + " name one twice")


def _check_together(table: CostTable, budgets: Sequence[Budget]) -> None:
    """Refuse budgets that no network is within all of, which can be where a cost falls with more groups.

    Raises BudgetError, naming what the others leave of each resource.
    """
    count = len(table.tasks)
    anything = np.full((len(table.layers), count, count), 1.0 / count)
    try:
        best_architecture(anything, table, budgets)
    except BudgetBelowReach as error:
        reason = str(error)
    else:
        return
    left = []
    for budget in budgets:
        others = [b for b in budgets if b is not budget]
        with contextlib.suppress(BudgetBelowReach):
            within = best_architecture(anything, table, others)
            left.append(
                f"a network within the others has {format_quantity(within.cost[budget.resource], budget.resource)}"
            )
    raise BudgetError("; ".join([reason, *left]))


def _check_reference(request: Request, tasks: list[str]) -> None:
    """Refuse a reference that is missing, of other tasks, or of no use to the method. Raises UsageError."""
    method, reference = request.method, request.reference
    if (reference is None) == (method is Method.PERMUTED):
        raise UsageError(
            "--method permuted deals the tasks of another run's tree to its branches anew: name the run with --from, which "
            "no other method takes"
        )
    if reference is not None and (reference.backbone, sorted(reference.tasks)) != (request.backbone, sorted(tasks)):
        raise UsageError(
            f"the run of --from is of {reference.backbone} with the tasks {', '.join(reference.tasks)}, this one of "
            f"{request.backbone} with {', '.join(tasks)}; permute a tree of the same backbone and tasks"
        )


def _without_idle(request: Request) -> tuple[Request, list[str]]:
    """Return the request without what means nothing to its method, and what was left out. Raises UsageError where that is not `usual`."""
    method, overrides = request.method, dict(request.search_overrides or {})
    idle = {key: option for key, option in _OF_A_SEARCH.items() if overrides.get(key) is not None}
    idle |= {name: option for name, (option, nothing) in _FIELDS.items() if getattr(request, name) != nothing}
    idle = {key: option for key, option in idle.items() if means_nothing(method, option.split(" or ")[0])}
    typed = [option for option in idle.values() if request.usual.isdisjoint(option.split(" or "))]
    refused = [option for option in typed if option not in _CHECKED_LATER]
    if refused:
        why = "which searches no trees" if method.searches else "which takes no search steps"
        raise UsageError(f"{', '.join(refused)}: means nothing to --method {method.value}, {why}; leave it out")
    idle = {key: option for key, option in idle.items() if option not in typed}
    if not idle:
        return request, []
    gone = {*idle, *(["resource_weight"] if "resource_term" in idle else [])}
    kept = {key: value for key, value in overrides.items() if key not in gone}
    fields: dict[str, Any] = {name: nothing for name, (_, nothing) in _FIELDS.items() if name in idle}
    note = f"left out of the settings, for they mean nothing to --method {method.value}: {', '.join(idle.values())}"
    return replace(request, search_overrides=kept, **fields), [note]


def _budgets(
    asked: Sequence[Budget], table: CostTable, method: Method, kind: ResourceTermKind
) -> tuple[list[Budget], list[str]]:
    """Return the budgets, none where the way to the architecture knows none and none was asked for, and notes."""
    if method in (Method.SINGLE, Method.SHARED):
        if method is Method.SINGLE:
            _check_once(asked)
            _check_separate(table, asked)  # whether trees could be within the budgets is of no interest here
            return list(asked), []
        return resolve_budgets(asked, table) if asked else ([], [])
    if method is Method.PERMUTED and not asked:
        return [], []  # that of a tree for which there was none
    if asked or kind is ResourceTermKind.BUDGET:
        budgets, notes = resolve_budgets(asked, table)
        if kind is not ResourceTermKind.BUDGET:
            notes.append("the search is not steered by the budget; only the tree that is handed over keeps it")
        return budgets, notes
    how = "a fixed resource weight" if kind is ResourceTermKind.WEIGHT else "no resource term"
    return [], [f"{how} and no --budget: whatever the search comes to is handed over"]


def _check_separate(table: CostTable, budgets: Sequence[Budget]) -> None:
    """Refuse budgets that separate networks are not within. Raises BudgetError."""
    for budget in budgets:
        separate = table.separate_total(budget.resource)
        if separate > budget.value:
            raise BudgetError(
                f"budget {budget.text}: a network per task costs {format_quantity(separate, budget.resource, digits=4)} in all; raise "
                "the budget, leave it out, or take another --method"
            )


def _check_expected(table: CostTable, budget: Budget) -> None:
    """Refuse a budget whose expected cost a search could not compute, before anything is begun."""
    dependence, count = table.dependence(budget.resource), len(table.tasks)
    if dependence != "groups_proportional" and count > MOST_INTERVAL_TASKS:
        raise UsageError(
            f"budget {budget.text}: {budget.resource} depends on {dependence}, and its expected value for {count} tasks is a "
            f"sum over too many groupings; up to {MOST_INTERVAL_TASKS} tasks can have such a budget. Name fewer with --tasks, "
            "or give a budget in MAdds or Params"
        )

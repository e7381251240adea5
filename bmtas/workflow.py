"""What the commands do, step by step: plan a search, search, train, evaluate. The command line only asks and shows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bmtas.architecture import Architecture
from bmtas.config import PRESETS, Decode, Preset, ResourceTermKind, RunConfig, reduced_size
from bmtas.data.batches import Loader
from bmtas.data.check import check_labels
from bmtas.data.protocol import Dataset
from bmtas.data.source import canonical, open_dataset, open_with_tasks
from bmtas.device import pick_device
from bmtas.errors import BudgetError, EnvironmentProblem, UsageError
from bmtas.evaluate import evaluate_constants, evaluate_network, metrics_json
from bmtas.expectation import expect_run
from bmtas.files import atomic_path, read_lines, write_json
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.weights import load_weights
from bmtas.pictures import prediction_sheet
from bmtas.plots import draw_search
from bmtas.plots_over_time import draw_sharing
from bmtas.profile import build_table
from bmtas.progress import Progress
from bmtas.proof import prove_costs
from bmtas.runs import Run, all_runs, create_run
from bmtas.search import Search
from bmtas.tables import digest, read_table
from bmtas.train import Training, load_network
from costs.decode import argmax_architecture, best_architecture
from costs.errors import BudgetBelowReach
from costs.join import join_tables
from costs.lattice import MOST_INTERVAL_TASKS
from costs.partitions import Grouping
from costs.reach import budget_range, check_budgets
from costs.splits import MOST_DECODED_TASKS
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget


@dataclass(frozen=True)
class Request:
    """What the user asked of a search; None stands for the preset's or the data's own choice. Sizes are (height, width).

    `table` is a file with a cost table of the user's own, whose resources are added to the counted ones.
    """

    data: str = "scenes"
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
    search_overrides: dict[str, Any] | None = None
    train_overrides: dict[str, Any] | None = None


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
    asked = [parse_budget(text) for text in request.budgets]
    dataset, tasks = open_with_tasks(request.data, request.tasks)
    if len(tasks) > MOST_DECODED_TASKS:
        raise UsageError(
            f"{len(tasks)} tasks; architectures can be searched for up to {MOST_DECODED_TASKS}, so name fewer with --tasks"
        )
    preset = PRESETS[request.preset]
    size = request.size or dataset.size
    own = None if request.table is None else read_table(request.table)
    table = build_table(backbone, tasks, size)
    if own is not None:
        table = join_tables(table, own, str(request.table))
    search = _overridden(preset.search, request.search_overrides)
    budgets, notes = _budgets(asked, table, search.resource_term)
    if request.decode is Decode.ARGMAX and budgets:
        raise UsageError("--decode argmax keeps no budget; it goes with --resource-weight or --no-resource-term alone")
    if request.no_resizing:
        search_size = size
    else:
        search_size = request.search_size or _smaller(size, preset.search_pixels, preset.search_scale)
    train_size = request.train_size or _smaller(size, preset.train_pixels)
    weights = request.weights or preset.weights
    if weights == "none":
        whose = "" if request.weights else f", as the preset {request.preset.value} has it"
        notes.append(f"weights: random{whose}; pretrained ones usually give better networks (--weights imagenet)")
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
        weights=weights if weights in ("none", "imagenet") else str(Path(weights).expanduser().resolve()),
        budgets=[b.text for b in budgets],
        preset=request.preset,
        seed=request.seed,
        deploy_size=size,
        search_size=search_size,
        train_size=train_size,
        search=search,
        train=_overridden(preset.train, request.train_overrides),
        table_digest=None if own is None else digest(own),
        decode=request.decode,
    )
    return Plan(config, table, tuple(budgets), dataset, tuple(notes))


def _overridden(settings: Any, overrides: dict[str, Any] | None) -> Any:
    """Return `settings` with some fields replaced, checked again."""
    chosen = {k: v for k, v in (overrides or {}).items() if v is not None}
    try:
        return type(settings).model_validate({**settings.model_dump(), **chosen})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg'].lower()}" for e in error.errors()
        )
        raise UsageError(f"settings of the run: {problems}") from None


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
    resources = [b.resource for b in asked]
    if len(set(resources)) < len(resources):
        raise UsageError("one budget per resource: " + ", ".join(b.text for b in asked) + " name one twice")
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


def _budgets(asked: Sequence[Budget], table: CostTable, kind: ResourceTermKind) -> tuple[list[Budget], list[str]]:
    """Return the budgets, none where the loss of the search knows none and none was asked for, and notes."""
    if asked or kind is ResourceTermKind.BUDGET:
        return resolve_budgets(asked, table)
    how = "a fixed resource weight" if kind is ResourceTermKind.WEIGHT else "no resource term"
    return [], [f"{how} and no --budget: whatever the search comes to is handed over"]


def _check_expected(table: CostTable, budget: Budget) -> None:
    """Refuse a budget whose expected cost a search could not compute, before anything is begun."""
    dependence, count = table.dependence(budget.resource), len(table.tasks)
    if dependence != "groups_proportional" and count > MOST_INTERVAL_TASKS:
        raise UsageError(
            f"budget {budget.text}: {budget.resource} depends on {dependence}, and its expected value for {count} tasks is a "
            f"sum over too many groupings; up to {MOST_INTERVAL_TASKS} tasks can have such a budget. Name fewer with --tasks, "
            "or give a budget in MAdds or Params"
        )


def run_search(plan: Plan, root: Path, progress: Progress, *, device: str = "auto", new: bool = False) -> Run:
    """Search, decode within the budgets, check the network that would be built, and write it into the run folder.

    Goes on with an unfinished search of the same configuration, unless `new`. Whatever can be found missing or wrong is
    found before a run folder is made.
    """
    run = None if new else _unfinished(root, plan.config)
    search = Search(plan.config, plan.dataset, plan.table, plan.budgets, device)
    if run is None:
        check_labels(plan.dataset, plan.config.task_list(), progress)
    # What a checkpoint replaces anyway is not fetched again.
    begun = run is not None and (run.search_folder / "checkpoint.pt").exists()
    weights = None if begun else load_weights(plan.config.weights, search.backbone)
    if run is None:
        label = f"{plan.dataset.name}-{'-'.join(b.text for b in plan.budgets)}"
        run = create_run(root, label, plan.config, plan.table)
    progress.note(f"run folder: {run.path}; device: {search.device}")
    probabilities = search.run(run.search_folder, weights, progress)
    _write_found(run, plan, probabilities)
    try:
        draw_search(run, expect_run(run))
        history = read_lines(run.search_folder / "history.jsonl")
        draw_sharing(history, [task["name"] for task in plan.config.tasks], run.search_folder / "sharing.png")
    except EnvironmentProblem as error:  # the architecture is there, and a search is too long to fail over a picture
        progress.note(f"no pictures: {error}")
    return run


def _unfinished(root: Path, config: RunConfig) -> Run | None:
    """Return the newest run that this configuration began and did not end."""
    for run in all_runs(root):
        # A folder that cannot be read, of a newer version say, is not ours to go on with.
        with contextlib.suppress(UsageError):
            if not run.architecture_path.exists() and run.config() == config:
                return run
    return None


def _decode(plan: Plan, probabilities: np.ndarray) -> tuple[tuple[Grouping, ...], dict[str, Any]]:
    """Return the architecture's groupings, and how it was found, as plain JSON values."""
    if plan.config.decode is Decode.ARGMAX:
        return argmax_architecture(probabilities), {"decode": Decode.ARGMAX.value}
    decoded = best_architecture(probabilities, plan.table, plan.budgets)
    return decoded.groupings, {
        "decode": Decode.BEST.value,
        "log_probability": decoded.log_probability if np.isfinite(decoded.log_probability) else None,
        "exact": decoded.exact,
        "gap": decoded.gap if np.isfinite(decoded.gap) else None,
    }


def _write_found(run: Run, plan: Plan, probabilities: np.ndarray) -> None:
    """Decode, prove on the built network that it is within the budgets, and write `architecture.json`.

    Its `costs` are those of the table, in which the budgets are kept; `measured` is what the built network takes.
    """
    # First of all: whatever comes after it can be done again from these.
    write_json(
        run.search_folder / "probabilities.json",
        {
            "schema_version": 1,
            "tasks": [task["name"] for task in plan.config.tasks],
            "layers": [layer.name for layer in plan.table.layers],
            "probabilities": probabilities.tolist(),
        },
    )
    groupings, found = _decode(plan, probabilities)
    tasks = plan.config.task_list()
    names = [task.name for task in tasks]
    architecture = Architecture(
        backbone=plan.config.backbone,
        tasks=tuple(names),
        groupings=tuple(tuple(tuple(names[i] for i in b) for b in g) for g in groupings),
    )
    stated, measured = prove_costs(build_network(architecture, tasks), architecture, plan.table, plan.budgets)
    write_json(
        run.architecture_path,
        {
            **architecture.to_json(),
            "costs": {resource.value: value for resource, value in stated.items()},
            "measured": {resource.value: value for resource, value in measured.items()},
            **found,
        },
    )


def open_run_dataset(run: Run) -> Dataset:
    """Open the data of a run. Raises UsageError if they are no longer what the run began with."""
    config = run.config()
    dataset = open_dataset(config.data)
    if dataset.fingerprint() != config.data_fingerprint:
        raise UsageError(
            f"{config.data} has changed since {run.path} was made, so results would not belong together; begin a new run with "
            "`bmtas search`, or restore the data"
        )
    return dataset


def train_network(run: Run, name: str, progress: Progress, device: str = "auto") -> str | None:
    """Train one network of a run, going on where it stopped.

    Returns None, or why nothing had to be trained: it was before, or a network of the same architecture was.
    """
    weights = run.network(name) / "weights.pt"
    if weights.exists():
        return f"{name} is trained already, in {run.network(name)}"
    architecture = run.architecture(name)
    for other in run.trained():
        if run.architecture(other) == architecture:
            # The same seed, data and steps would give the same weights again.
            for file in ("architecture.json", "history.jsonl", "weights.pt"):
                with atomic_path(run.network(name) / file) as temporary:
                    shutil.copyfile(run.network(other) / file, temporary)
            return f"{name} is the same network as {other}, which is trained already; its weights are taken"
    Training(run.config(), architecture, open_run_dataset(run), run.network(name), device).run(progress)
    return None


def evaluate_networks(
    run: Run, names: Sequence[str], progress: Progress, *, images: int | None = None, device: str = "auto"
) -> None:
    """Measure trained networks on the validation split and write `metrics.json` and `predictions.png` of each.

    `images` bounds how many are used; None takes the run's own choice. Raises UsageError if one is not trained.
    """
    config = run.config()
    tasks = config.task_list()
    weights = {name: run.require_trained(name) for name in names}
    loader = Loader(open_run_dataset(run), "val", tasks, config.train_size)
    limit = images or config.train.evaluate_images
    batch_size = config.train.batch_size
    progress.start("evaluate", len(names) + 1)
    constants = evaluate_constants(lambda: loader.in_order(batch_size, limit), tasks)
    progress.advance()
    for name in names:
        network = load_network(config, run.architecture(name), weights[name]).to(pick_device(device))
        values = evaluate_network(network, loader.in_order(batch_size, limit), tasks)
        content = metrics_json(
            tasks, values, constants, size=config.train_size, images=min(limit or loader.count, loader.count)
        )
        write_json(run.network(name) / "metrics.json", content)
        prediction_sheet(network.cpu(), next(loader.in_order(4)), tasks, run.network(name) / "predictions.png")
        progress.advance()

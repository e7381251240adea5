"""What the commands do, step by step: search, train, evaluate. The command line only asks and shows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.architecture import Architecture
from bmtas.checkpoint import has_checkpoint
from bmtas.config import Decode, RunConfig
from bmtas.data.batches import Loader
from bmtas.data.check import check_labels
from bmtas.data.protocol import Dataset
from bmtas.data.source import open_dataset
from bmtas.device import pick_device
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.evaluate import evaluate_constants, evaluate_network, metrics_json
from bmtas.expectation import expect_run
from bmtas.files import atomic_path, read_lines, write_json
from bmtas.networks.network import build_network
from bmtas.networks.weights import load_weights
from bmtas.parallel import How
from bmtas.pictures import prediction_sheet
from bmtas.planning import Plan
from bmtas.plots import draw_search
from bmtas.plots_over_time import draw_sharing
from bmtas.plots_tree import draw_tree
from bmtas.progress import Progress
from bmtas.proof import prove_costs
from bmtas.runs import FOUND, Run, all_runs, create_run
from bmtas.search import Search
from bmtas.train import Training, load_network
from costs.decode import argmax_architecture, best_architecture
from costs.partitions import Grouping

_SHORT = 60
"""So many characters of two values are worth telling."""


def run_search(plan: Plan, root: Path, progress: Progress, how: How, *, new: bool = False) -> Run:
    """Search, decode within the budgets, check the network that would be built, and write it into the run folder.

    Goes on with an unfinished search of the same configuration, unless `new`. Whatever can be found missing or wrong is
    found before a run folder is made.
    """
    search = Search(plan.config, plan.dataset, plan.table, plan.budgets, how)
    run, begun = how.parallel.decided(lambda: _continued(plan, root, progress, new=new))
    # What a checkpoint replaces anyway is not fetched again.
    weights = None if begun else load_weights(plan.config.weights, search.backbone)
    if run is None:
        label = f"{plan.dataset.name}-{'-'.join(b.text for b in plan.budgets)}"
        run = how.parallel.decided(lambda: create_run(root, label, plan.config, plan.table))
    others = f", {how.parallel.size} processes" if how.parallel.size > 1 else ""
    progress.note(f"run folder: {run.path}; device: {search.device}{others}")
    probabilities = search.run(run.search_folder, weights, progress)
    how.parallel.decided(lambda: _hand_over(run, plan, probabilities, progress))
    return run


def _continued(plan: Plan, root: Path, progress: Progress, *, new: bool) -> tuple[Run | None, bool]:
    """Return the run to go on with, if there is one, and whether it has a checkpoint; labels of a new one are checked."""
    run = None if new else _unfinished(root, plan.config, progress)
    if run is None:
        check_labels(plan.dataset, plan.config.task_list(), progress)
        return None, False
    begun = has_checkpoint(run.search_folder / "checkpoint.pt")
    if not begun:
        progress.note(f"{run.name} was stopped before its first checkpoint; it begins from the start")
    return run, begun


def _hand_over(run: Run, plan: Plan, probabilities: np.ndarray, progress: Progress) -> None:
    """Write what the search has found, and draw it."""
    _write_found(run, plan, probabilities)
    try:
        draw_search(run, expect_run(run))
        history = read_lines(run.search_folder / "history.jsonl")
        draw_sharing(history, [task["name"] for task in plan.config.tasks], run.search_folder / "sharing.png")
        draw_tree(run.architecture(FOUND), plan.table, run.search_folder / "tree.png")
    except (EnvironmentProblem, OSError, ValueError) as error:
        # The architecture is there, and a search is too long to fail over a picture.
        progress.note(f"no pictures: {error}")


def _unfinished(root: Path, config: RunConfig, progress: Progress) -> Run | None:
    """Return the newest run that this configuration began and did not end; say why the newest unfinished one is not it."""
    differences = None
    for run in all_runs(root):
        # A folder that cannot be read, of a newer version say, is not ours to go on with.
        with contextlib.suppress(UsageError):
            if run.architecture_path.exists():
                continue
            found = run.config()
            if found == config:
                return run
            differences = differences or f"{run.name} has not ended, but differs in {_differences(found, config)}"
    if differences:
        progress.note(f"{differences}; a new run begins")
    return None


def _differences(one: RunConfig, other: RunConfig) -> str:
    """Return which settings differ, with both values where they are short."""
    told, present = [], _flat(other)
    for name, value in _flat(one).items():
        now = present.get(name)
        if now != value:
            said = f"{value} there, {now} now"
            told.append(f"{name} ({said})" if len(said) <= _SHORT else name)
    return ", ".join(told)


def _flat(config: RunConfig) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    search, train = data.pop("search"), data.pop("train")
    return data | {f"search.{k}": v for k, v in search.items()} | {f"train.{k}": v for k, v in train.items()}


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


def train_network(run: Run, name: str, progress: Progress, how: How) -> str | None:
    """Train one network of a run, going on where it stopped.

    Returns None, or why nothing had to be trained: it was before, or a network of the same architecture was.
    """
    said = how.parallel.decided(lambda: _trained_already(run, name))
    if said is None:
        Training(run.config(), run.architecture(name), open_run_dataset(run), run.network(name), how).run(progress)
    return said


def _trained_already(run: Run, name: str) -> str | None:
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

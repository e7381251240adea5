"""What the commands do, step by step: search and evaluate. The command line only asks and shows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.architecture import BranchedArchitecture
from bmtas.checkpoint import has_checkpoint, save_checkpoint
from bmtas.closing import KEPT, Settled, settle
from bmtas.config import Method, RunConfig
from bmtas.data.batches import Loader
from bmtas.data.check import check_labels
from bmtas.device import pick_device
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.evaluation import evaluate_constants, evaluate_network, metrics_json
from bmtas.extras import own_version
from bmtas.files import write_json, write_text
from bmtas.holding import held
from bmtas.methods.finder import Finder, Found, choose_finder
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.pictures import prediction_sheet
from bmtas.planning import Plan
from bmtas.plots_tree import draw_tree
from bmtas.progress import Progress
from bmtas.proof import prove_costs
from bmtas.ranks import speaks
from bmtas.readings import Meter
from bmtas.run_training import open_run_dataset, train_network
from bmtas.runs import FOUND, SEPARATE, START, Run, all_runs, create_run
from bmtas.tasks import Task
from bmtas.training import load_network
from costs.units import Budget

_SHORT = 60
"""So many characters of two values are worth telling."""


def run_search(
    plan: Plan, root: Path, progress: Progress, how: How, *, new: bool = False, meter: Meter | None = None
) -> Run:
    """Find an architecture within the budgets, check the network that would be built, and write it into the run folder.

    Goes on with an unfinished run of the same configuration, unless `new`. Whatever can be found missing or wrong is
    found before a run folder is made. With a `meter` the network found is measured first, and is within the budgets as measured.
    """
    finder = choose_finder(plan, how)
    with contextlib.ExitStack() as holding:
        run, begun = how.parallel.decided(lambda: _continued(plan, root, progress, holding, new=new))
        finder.prepare(begun=begun)
        if run is None:
            run = how.parallel.decided(lambda: _created(plan, root, holding))
        others = f", {how.parallel.size} processes" if how.parallel.size > 1 else ""
        progress.note(f"run folder: {run.path}; device: {how.parallel.device}{others}")
        finder.learn(run, progress)
        how.parallel.decided(lambda: _hand_over(run, plan, finder, meter, progress))
    return run


def _created(plan: Plan, root: Path, holding: contextlib.ExitStack) -> Run:
    run = create_run(root, _label(plan), plan.config, plan.table)
    holding.enter_context(held(run))
    return run


def _label(plan: Plan) -> str:
    method = plan.config.method
    parts = [plan.dataset.name, *([] if method is Method.BRANCHED else [method.value]), *(b.text for b in plan.budgets)]
    return "-".join(parts)


def _continued(
    plan: Plan, root: Path, progress: Progress, holding: contextlib.ExitStack, *, new: bool
) -> tuple[Run | None, bool]:
    """Return the run to go on with, if there is one, and whether it has a checkpoint; labels of a new one are checked."""
    run = None if new else _unfinished(root, plan.config, progress)
    if run is None:
        check_labels(plan.dataset, plan.config.task_list(), progress)
        return None, False
    holding.enter_context(held(run))
    begun = has_checkpoint(run.search_folder / "checkpoint.pt")
    if not begun and plan.config.method.searches:
        progress.note(f"{run.name} was stopped before the first checkpoint of its search, which begins from the start")
    return run, begun


def _hand_over(run: Run, plan: Plan, finder: Finder, meter: Meter | None, progress: Progress) -> None:
    """Write what was found, and draw it."""
    if meter is None:
        settled = Settled(finder.derive(plan.table), plan.table, {}, [])
    else:
        advice = KEPT if plan.config.method is Method.BRANCHED else ""
        settled = settle(finder.derive, plan.table, plan.budgets, meter, progress, partial(keep_trials, run), advice)
    if settled.table != run.table():  # corrected, or with a margin
        write_text(run.path / "table.json", settled.table.to_json())
    write_found(run, plan.config.task_list(), plan.budgets, settled)
    try:
        finder.draw(run, settled.found)
        found = run.architecture(FOUND)
        if isinstance(found, BranchedArchitecture):
            draw_tree(found, settled.table, run.search_folder / "tree.png")
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
    told, present = [], other.flat()
    for name, value in one.flat().items():
        now = present.get(name)
        if now != value:
            said = f"{value} there, {now} now"
            told.append(f"{name} ({said})" if len(said) <= _SHORT else name)
    return ", ".join(told)


def keep_trials(run: Run, trials: list[dict[str, Any]], name: str = "trials.json") -> None:
    """Write what was measured so far beside the search, where it stays if no network fits."""
    write_json(run.search_folder / name, {"schema_version": 1, "trials": trials})


def write_found(run: Run, tasks: Sequence[Task], budgets: Sequence[Budget], settled: Settled) -> None:
    """Prove on the built network that it is within the budgets, and write `architecture.json`.

    Its `costs` are those of the table, in which the budgets are kept; `measured` is what the built network takes, and `trials` are
    the networks that were measured on the device until one was within the budgets.
    """
    found = settled.found
    network = build_network(found.architecture, tasks)
    stated, measured = prove_costs(network, found.architecture, settled.table, budgets)
    measured |= {resource: reading.median for resource, reading in settled.measured.items()}
    _keep_weights(run, found)
    write_json(
        run.architecture_path,
        {
            **found.architecture.to_json(),
            "costs": {resource.value: value for resource, value in stated.items()},
            "measured": {resource.value: value for resource, value in measured.items()},
            **found.details,
            **({"trials": settled.trials} if settled.trials else {}),
        },
    )


def _keep_weights(run: Run, found: Found) -> None:
    """Write the weights that come with an architecture: those of a network that is trained already, or to begin training with."""
    folder = run.network(FOUND)
    if found.trained is not None:
        made = {**found.architecture.to_json(), "trained_by": f"the search of {own_version()}"}
        write_json(folder / "architecture.json", made)
        save_checkpoint(folder / "weights.pt", {"network": found.trained.state_dict()})
    if found.start is not None:
        save_checkpoint(folder / START, {"network": found.start.state_dict()})


def train_networks(run: Run, names: Sequence[str], progress: Progress, how: How, device: str) -> None:
    """Train networks of a run, each once, and measure them; with them the separate ones where the method has trained these before.

    Raises UsageError where an architecture is not there yet, before anything is trained.
    """
    for name in names:
        run.architecture(name)
    with contextlib.ExitStack() as holding:
        how.parallel.decided(lambda: _hold(run, holding))
        for name in names:
            said = train_network(run, name, progress, how)
            if said is not None:
                progress.note(said)
    how.parallel.leave()
    if not speaks():
        return
    # A method may have trained the separate networks, which Delta_m is relative to.
    unmeasured = SEPARATE in run.trained() and not (run.network(SEPARATE) / "metrics.json").exists()
    evaluate_networks(
        run, [*names, SEPARATE] if unmeasured and SEPARATE not in names else names, progress, device=device
    )


def _hold(run: Run, holding: contextlib.ExitStack) -> None:
    holding.enter_context(held(run))


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
    if images is not None and images < 1:
        raise UsageError(f"images {images}: metrics need at least 1 validation image")
    limit = config.train.evaluate_images if images is None else images
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

"""Another tree from a search that has ended: under other budgets, or by a table corrected with what a device measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bmtas.architecture import Architecture, BranchedArchitecture, tree_of
from bmtas.closing import KEPT, Settled, settle
from bmtas.config import Decode, Method, RunConfig
from bmtas.errors import BudgetError, UsageError
from bmtas.expectation import read_probabilities
from bmtas.files import atomic_path
from bmtas.methods.branched.derivation import decode
from bmtas.methods.finder import Found
from bmtas.planning import resolve_budgets
from bmtas.plots_tree import draw_tree
from bmtas.progress import Progress
from bmtas.readings import Meter, Reading
from bmtas.runs import FOUND, Run, create_run
from bmtas.tables import architecture_costs
from bmtas.workflow import keep_trials, write_found
from costs.correction import corrected
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget


@dataclass(frozen=True)
class Again:
    """What is to be decoded anew: a run with probabilities, the table to do it by, and the budgets."""

    run: Run
    config: RunConfig
    table: CostTable
    budgets: tuple[Budget, ...]


def plan_again(run: Run, budgets: Sequence[str], readings: Mapping[Resource, Reading], progress: Progress) -> Again:
    """Return how `run` is decoded again: for `budgets` (none: its own), by its table, corrected by `readings` of its network.

    Raises UsageError if the run cannot be decoded again, BudgetError where no tree is within the budgets by the table.
    """
    config, table = run.config(), run.table()
    if config.method is not Method.BRANCHED:
        raise UsageError(
            f"{run.name} is of --method {config.method.value}, which has no probabilities of trees to decode; start `bmtas search` with the "
            "other budget, which takes seconds where nothing is searched or trained"
        )
    if config.decode is Decode.ARGMAX:
        raise UsageError(f"{run.name} was searched with --decode argmax, which keeps no budget; search anew without it")
    if not (budgets or config.budgets):
        raise UsageError(f"{run.name} was searched without a budget; give one with --budget")
    if readings:
        table = _corrected(table, run.architecture(FOUND), readings, progress)
    try:
        chosen, notes = resolve_budgets([parse_budget(text) for text in budgets or config.budgets], table)
    except BudgetError as error:
        raise BudgetError(f"by the table{' as corrected' if readings else ''}, {error}") from None
    for note in notes:
        progress.note(note)
    unread = [b.text for b in chosen if readings and b.resource in table.measured and b.resource not in readings]
    if unread:
        raise UsageError(
            f"budget {', '.join(unread)}: the device's report says nothing of it on the power rail of the table, so the table cannot be corrected "
            "by it; measure on a device that tells it"
        )
    return Again(run, config, table, tuple(chosen))


def decode_again(again: Again, table: CostTable, meter: Meter | None, progress: Progress) -> Run:
    """Derive a tree from the probabilities of a run, write it into a new run folder beside it, and return that.

    `table` is that of `again`, or one with a margin; with a `meter` the network found is measured, as after a search. Nothing is searched again.
    Raises UsageError if there are no probabilities, BudgetError where no network is within the budgets.
    """
    run, config, budgets = again.run, again.config, again.budgets
    probabilities = read_probabilities(run)
    names = tuple(task.name for task in config.task_list())

    def derive(by: CostTable) -> Found:
        groupings, details = decode(Decode.BEST, probabilities, by, budgets)
        named = tuple(tuple(tuple(names[i] for i in block) for block in grouping) for grouping in groupings)
        tree = BranchedArchitecture(backbone=config.backbone, method=config.method.value, tasks=names, groupings=named)
        return Found(tree, {**details, "decoded_from": run.name})

    if meter is None:
        settled = Settled(derive(table), table, {}, [])
    else:
        settled = settle(
            derive, table, budgets, meter, progress, partial(keep_trials, run, name="trials-decoded.json"), KEPT
        )
    made = _folder(run, config.model_copy(update={"budgets": [budget.text for budget in budgets]}), settled.table)
    write_found(made, config.task_list(), budgets, settled)
    draw_tree(tree_of(settled.found.architecture), settled.table, made.search_folder / "tree.png")
    return made


def _corrected(
    table: CostTable, found: Architecture, readings: Mapping[Resource, Reading], progress: Progress
) -> CostTable:
    """Return the table corrected by what the network found took, and say how far it was off."""
    for resource, reading in readings.items():
        predicted = architecture_costs(table, found)[resource]
        said = [format_quantity(value, resource, digits=4) for value in (predicted, reading.median, reading.upper)]
        progress.note(
            f"{resource.label.lower()}: the table says {said[0]}, measured was {said[1]} (at most {said[2]}); the table is corrected by "
            f"{reading.upper / predicted - 1:+.1%}"
        )
        table = corrected(table, resource, list(tree_of(found).group_counts), predicted, reading.median, reading.upper)
    return table


def _folder(run: Run, config: RunConfig, table: CostTable) -> Run:
    """Make the new run folder, with the probabilities of the old one: it can be decoded again itself."""
    label = run.name.split("-", 1)[-1].split("-decoded")[0]
    made = create_run(run.path.parent, f"{label}-decoded-{'-'.join(config.budgets)}", config, table)
    source = run.search_folder / "probabilities.json"
    made.search_folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(made.search_folder / source.name) as temporary:
        shutil.copyfile(source, temporary)
    return made

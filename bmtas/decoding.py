"""Another tree from a search that has ended: under other budgets, or by a table corrected with what a device measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from bmtas.architecture import Architecture
from bmtas.closing import Reading, Settled
from bmtas.config import Decode, RunConfig
from bmtas.errors import BudgetError, UsageError
from bmtas.expectation import read_probabilities
from bmtas.files import atomic_path
from bmtas.methods.branched import decode
from bmtas.methods.finder import Found
from bmtas.planning import resolve_budgets
from bmtas.plots_tree import draw_tree
from bmtas.progress import Progress
from bmtas.runs import FOUND, Run, create_run
from bmtas.tables import architecture_costs
from bmtas.workflow import write_found
from costs.correction import corrected
from costs.errors import BudgetBelowReach
from costs.table import CostTable
from costs.units import Resource, format_quantity, parse_budget


def decode_again(
    run: Run,
    budgets: Sequence[str],
    readings: Mapping[Resource, Reading],
    progress: Progress,
) -> Run:
    """Derive a tree from the probabilities of `run`, write it into a new run folder beside it, and return that.

    `budgets` (none: those of `run`) are kept by the table of `run`, corrected by `readings`: what its network found was measured to
    take. Nothing is searched again. Raises UsageError if the run has no probabilities, BudgetError where no tree fits.
    """
    config, probabilities = run.config(), read_probabilities(run)
    if config.decode is Decode.ARGMAX:
        raise UsageError(f"{run.name} was searched with --decode argmax, which keeps no budget; search anew without it")
    found = run.architecture(FOUND)
    table = _corrected(run.table(), found, readings, progress)
    try:
        chosen, notes = resolve_budgets([parse_budget(text) for text in budgets or config.budgets], table)
    except BudgetError as error:
        raise BudgetError(f"by the table{' as corrected' if readings else ''}, {error}") from None
    for note in notes:
        progress.note(note)
    try:
        groupings, details = decode(Decode.BEST, probabilities, table, chosen)
    except BudgetBelowReach as error:
        raise BudgetError(str(error)) from None
    tree = Architecture(
        backbone=found.backbone,
        method=found.method,
        tasks=found.tasks,
        groupings=tuple(tuple(tuple(found.tasks[i] for i in block) for block in grouping) for grouping in groupings),
    )
    new = config.model_copy(update={"budgets": [budget.text for budget in chosen]})
    made = _folder(run, new, table)
    settled = Settled(Found(tree, {**details, "decoded_from": run.name}), table, {}, [])
    write_found(made, config.task_list(), chosen, settled)
    draw_tree(tree, table, made.search_folder / "tree.png")
    return made


def _corrected(
    table: CostTable, found: Architecture, readings: Mapping[Resource, Reading], progress: Progress
) -> CostTable:
    """Return the table corrected by what the network found took, and say how far it was off."""
    for resource, reading in readings.items():
        predicted = architecture_costs(table, found)[resource]
        said = [format_quantity(value, resource, digits=4) for value in (predicted, reading.median, reading.upper)]
        progress.note(
            f"{resource.label.lower()}: predicted {said[0]}, measured {said[1]} (at most {said[2]}); the table is corrected by "
            f"{reading.upper / predicted - 1:+.1%}"
        )
        table = corrected(table, resource, list(found.group_counts), predicted, reading.upper)
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

"""What probabilities promise: expected cost per layer, and how probable each grouping is. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.runs import Run
from costs.forms import expected_from_groupings
from costs.groupings import check_rows, grouping_probabilities
from costs.lattice import MOST_INTERVAL_TASKS, Floats, lattice_of
from costs.partitions import write_key
from costs.subsets import expected_groups_of
from costs.table import CostTable
from costs.units import Resource

SCHEMA_VERSION = 1
MOST_GROUPINGS = 60
"""So many groupings of a layer are listed."""
RARE = 0.001
"""Groupings less probable than this are not listed: so all of up to five tasks that matter are."""
_NO_SUM = "no total: it is a maximum over layers, which the expected values of the layers do not tell"


def expect_run(run: Run) -> dict[str, Any]:
    """Return what `expect` says of the probabilities that the search of `run` ended with, before decoding.

    Raises UsageError if the search has not ended, or its probabilities are missing or cannot be read.
    """
    probs = read_probabilities(run)
    return {"schema_version": SCHEMA_VERSION, "run": run.name, **expect(run.table(), probs)}


def read_probabilities(run: Run) -> Floats:
    """Return the probabilities that the search of `run` ended with, (L, T, C). Raises UsageError as `expect_run` does."""
    path = run.search_folder / "probabilities.json"
    saved = run.read_result(path)
    method = run.config().method
    if saved is None and method is not Method.BRANCHED:
        why = (
            "which searches no trees; bmtas show without --expected has what it found"
            if method.searches
            else "which takes no search"
        )
        raise UsageError(f"{run.path} has no probabilities to show: its method is {method.value}, {why}")
    if saved is None and run.architecture_path.exists():
        raise UsageError(
            f"{path} is missing, though the search of this run has ended; put it back if there is a copy, or search anew with "
            "`bmtas search --new`"
        )
    if saved is None:
        raise UsageError(
            f"{run.path}: the search has not ended, there are no probabilities yet; start the same `bmtas search` again, it "
            "goes on where it stopped"
        )
    try:
        return np.array(saved["probabilities"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: no probabilities of candidates ({error!r}); expected what `bmtas search` writes"
        ) from None


def expect(table: CostTable, probs: Floats) -> dict[str, Any]:
    """Return the expected costs and the most probable groupings of every layer for `probs` (L, T, C), as JSON values.

    `expected` of a layer is in the base unit of each resource; `expected` of the whole adds the fixed part and is None
    for a peak. For more than ten tasks, whose groupings are too many, the `groupings` of a layer are None, and so is
    the expected cost in resources that are not proportional to the number of groups. `left_out` gives the reason for
    each None, by resource and `groupings`.

    Raises CostError if `probs` does not fit the table or is no distribution, or for more than twenty tasks.
    """
    probs = check_rows(probs, (len(table.layers), len(table.tasks)))
    many = len(table.tasks) > MOST_INTERVAL_TASKS
    chances = None if many else grouping_probabilities(probs)
    costs = _layer_costs(table, probs, table.resources(), chances)
    left_out = {r.value: _NO_SUM for r in costs if r.is_peak}
    if many:
        reason = f"{len(table.tasks)} tasks, and groupings are listed for up to {MOST_INTERVAL_TASKS}"
        left_out |= {r.value: f"{reason}; it depends on them" for r, cost in costs.items() if cost is None}
        left_out["groupings"] = reason
    return {
        "tasks": list(table.tasks),
        "expected": {resource.value: _total(table, resource, cost) for resource, cost in costs.items()},
        "left_out": left_out,
        "layers": [
            {
                "name": layer.name,
                "expected": {r.value: None if cost is None else float(cost[i]) for r, cost in costs.items()},
                "groupings": None if chances is None else _likely(chances[i], table.tasks),
            }
            for i, layer in enumerate(table.layers)
        ],
    }


def expected_totals(table: CostTable, probs: Floats) -> dict[str, float | None]:
    """Return `expected` of what `expect` returns, without forming groupings that it does not take. Raises as it does."""
    probs = check_rows(probs, (len(table.layers), len(table.tasks)))
    sums = [resource for resource in table.resources() if not resource.is_peak]
    simple = all(table.dependence(resource) == "groups_proportional" for resource in sums)
    chances = None if simple or len(table.tasks) > MOST_INTERVAL_TASKS else grouping_probabilities(probs)
    costs = _layer_costs(table, probs, sums, chances)
    return {resource.value: _total(table, resource, costs.get(resource)) for resource in table.resources()}


def _layer_costs(
    table: CostTable, probs: Floats, resources: Iterable[Resource], chances: Floats | None
) -> dict[Resource, Floats | None]:
    """Return the expected cost of each layer, (L,), per resource; None where it takes groupings and there are none."""
    groups = expected_groups_of(probs)
    costs: dict[Resource, Floats | None] = {}
    for resource in resources:
        if table.dependence(resource) == "groups_proportional":
            costs[resource] = groups * table.layer_costs(resource)
        else:
            costs[resource] = None if chances is None else expected_from_groupings(probs, table, resource, chances)
    return costs


def _total(table: CostTable, resource: Resource, cost: Floats | None) -> float | None:
    return None if cost is None or resource.is_peak else float(cost.sum()) + table.fixed_cost(resource)


def _likely(chances: Floats, tasks: list[str]) -> list[dict[str, Any]]:
    """Return the most probable groupings of one layer, the likeliest first, and leave out the rare ones."""
    blocks = lattice_of(len(tasks)).blocks
    order = np.argsort(-chances, kind="stable")[:MOST_GROUPINGS]
    return [
        {"grouping": write_key((int(b) for b in blocks[k] if b), tasks), "probability": float(chances[k])}
        for k in order
        if chances[k] >= RARE
    ]

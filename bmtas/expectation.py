"""What the probabilities of a run promise: expected cost per layer, and how probable each grouping is. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from bmtas.errors import UsageError
from bmtas.runs import Run
from costs.forms import expected_from_groupings
from costs.groupings import grouping_probabilities
from costs.lattice import lattice_of
from costs.partitions import write_key

SCHEMA_VERSION = 1
_MOST_GROUPINGS = 60
_RARE = 0.001
"""Groupings less probable than this are not listed: so all of up to five tasks that matter are."""


def expect_run(run: Run) -> dict[str, Any]:
    """Return the expected costs and the most probable groupings of every layer of `run`, as plain JSON values.

    `expected` of a layer is in the base unit of each resource; `expected` of the run adds the fixed part and is None
    for a peak, which is no sum. Probabilities are those that the search ended with, before decoding.

    Raises UsageError if the search has not ended, CostError for more than ten tasks.
    """
    path = run.search_folder / "probabilities.json"
    saved = run.read_result(path)
    if saved is None:
        raise UsageError(
            f"{run.path}: the search has not ended, there are no probabilities yet; start the same `bmtas search` again, it "
            "goes on where it stopped"
        )
    try:
        probs = np.array(saved["probabilities"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: no probabilities of candidates ({error!r}); expected what `bmtas search` writes"
        ) from None
    table = run.table()
    costs = {resource: expected_from_groupings(probs, table, resource) for resource in table.resources()}
    chances = grouping_probabilities(probs)
    names = [
        write_key((int(block) for block in row if block), table.tasks) for row in lattice_of(len(table.tasks)).blocks
    ]
    layers = []
    for i, layer in enumerate(table.layers):
        likely = np.argsort(-chances[i], kind="stable")[:_MOST_GROUPINGS]
        layers.append(
            {
                "name": layer.name,
                "expected": {resource.value: float(cost[i]) for resource, cost in costs.items()},
                "groupings": [
                    {"grouping": names[k], "probability": float(chances[i, k])}
                    for k in likely
                    if chances[i, k] >= _RARE
                ],
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run.name,
        "tasks": list(table.tasks),
        "expected": {
            resource.value: None if resource.is_peak else float(cost.sum()) + table.fixed_cost(resource)
            for resource, cost in costs.items()
        },
        "layers": layers,
    }

"""The decoded front: what one finished search would hand over for budget after budget, without searching again. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.expectation import read_probabilities
from bmtas.extras import require
from bmtas.files import atomic_path, write_json
from bmtas.runs import Run
from bmtas.sweep.plan import read_budgets
from bmtas.tables import column_label
from bmtas.view import describe_tree
from costs.decode import best_architecture
from costs.partitions import Grouping
from costs.reach import budget_range
from costs.table import CostTable
from costs.units import Resource, format_quantity, parse_budget, unit_scale

NO_QUALITY = "no network was trained or measured for this: a higher log-probability is what the search holds more likely, not a measured quality"
_DOTS_PER_INCH = 120
_DIGITS = 4


@dataclass(frozen=True)
class DecodedTree:
    """The most probable tree within some budgets of the grid.

    `budgets` are those that lead to it, each as the texts of one job, the least first; `costs` are by resource in base units;
    `log_probability` is None where the distribution excludes the tree; `gap` as in `costs.decode.Decoded`, None where no bound is known.
    """

    budgets: tuple[tuple[str, ...], ...]
    costs: dict[str, float]
    log_probability: float | None
    exact: bool
    gap: float | None
    groupings: tuple[tuple[tuple[str, ...], ...], ...]

    @property
    def groups(self) -> list[int]:
        """How many groups are alive in each layer."""
        return [len(grouping) for grouping in self.groupings]


@dataclass(frozen=True)
class DecodedFront:
    """Distinct trees of one search, in the order of the grid of budgets; `resource` is what the grid is of."""

    run: str
    resource: Resource
    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    reach: tuple[float, float]
    trees: tuple[DecodedTree, ...]

    def where_tasks_part(self, tree: DecodedTree) -> str:
        """Return which layers share what, as in `0-15 all, 16-17 semseg+parts|edge`."""
        index = {task: i for i, task in enumerate(self.tasks)}
        return describe_tree(
            [tuple(tuple(index[task] for task in block) for block in grouping) for grouping in tree.groupings],
            self.tasks,
        )


def grid(table: CostTable, resource: Resource, points: int) -> list[str]:
    """Return `points` budgets, evenly from the cheapest to the dearest tree, as texts rounded up to four digits.

    Budgets that are the same when rounded stand there once. Raises UsageError for fewer than two points.
    """
    if points < 2:
        raise UsageError(f"--points {points}: a grid over the reach has at least its two ends; give 2 or more")
    low, high = budget_range(table, resource)
    texts = [
        format_quantity(float(value), resource, digits=_DIGITS, rounding=ROUND_CEILING).replace(" ", "")
        for value in np.linspace(low, high, points)
    ]
    return list(dict.fromkeys(texts))


def decode_front(run: Run, budgets: Sequence[str], points: int) -> DecodedFront:
    """Return the most probable tree of a finished branched search for each of `budgets`, or for a grid of `points` over the reach.

    A budget may name several resources, with commas. The grid is of multiply-adds. Trees that several budgets lead to stand there once. Costs are those of the run's
    table. Raises UsageError if the run has no probabilities or a budget cannot be read, BudgetBelowReach if one is below the reach.
    """
    probabilities, table, config = read_probabilities(run), run.table(), run.config()
    asked = read_budgets(budgets) if budgets else [[text] for text in grid(table, Resource.MADDS, points)]
    resource = parse_budget(asked[0][0]).resource
    names = tuple(task.name for task in config.task_list())
    found: dict[tuple[Grouping, ...], DecodedTree] = {}
    for of_job in asked:
        decoded = best_architecture(probabilities, table, of_job)
        before = found.get(decoded.groupings)
        found[decoded.groupings] = DecodedTree(
            (*(before.budgets if before else ()), tuple(of_job)),
            {r.value: cost for r, cost in decoded.cost.items()},
            _finite(decoded.log_probability),
            decoded.exact,
            _finite(decoded.gap),
            tuple(tuple(tuple(names[task] for task in block) for block in grouping) for grouping in decoded.groupings),
        )
    layers = tuple(layer.name for layer in table.layers)
    return DecodedFront(run.name, resource, names, layers, budget_range(table, resource), tuple(found.values()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def decoded_json(front: DecodedFront) -> dict[str, Any]:
    """Return the front as plain JSON values, with a line that says what it does not say."""
    return {
        "schema_version": 1,
        "run": front.run,
        "note": NO_QUALITY,
        "resource": front.resource.value,
        "reach": list(front.reach),
        "tasks": list(front.tasks),
        "layers": list(front.layers),
        "trees": [
            {
                "budgets": [list(of_job) for of_job in tree.budgets],
                "costs": tree.costs,
                "log_probability": tree.log_probability,
                "exact": tree.exact,
                "gap": tree.gap,
                "groups": tree.groups,
                "shares": front.where_tasks_part(tree),
                "groupings": [[list(block) for block in grouping] for grouping in tree.groupings],
            }
            for tree in front.trees
        ],
    }


def write_decoded(run: Run, front: DecodedFront) -> tuple[list[Path], str | None]:
    """Write `decoded_front.json` and `decoded_front.png` beside the search and return their paths.

    Where matplotlib is not installed there is no picture, but the reason in words.
    """
    data, picture = (run.search_folder / f"decoded_front.{ending}" for ending in ("json", "png"))
    write_json(data, decoded_json(front))
    try:
        draw_decoded(front, picture)
    except EnvironmentProblem as error:
        return [data], f"no picture: {error}"
    return [data, picture], None


def draw_decoded(front: DecodedFront, path: Path) -> None:
    """Draw the log-probability over the cost, and below it how many groups are alive in every layer, a row per tree.

    Trees that the distribution excludes have no log-probability and are only below. Raises EnvironmentProblem where matplotlib is not installed.
    """
    trees = sorted(front.trees, key=lambda tree: tree.costs[front.resource.value])
    costs = [tree.costs[front.resource.value] for tree in trees]
    height = 2.8 + 0.26 * len(trees) + 1.2
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(max(6.0, 0.34 * len(front.layers) + 2.6), height), layout="constrained"
    )
    above, below = figure.subplots(2, 1, height_ratios=[2.8, 0.26 * len(trees) + 1.2])
    scale, unit = unit_scale(max(costs), front.resource)
    points = [
        (c / scale, t.log_probability) for c, t in zip(costs, trees, strict=True) if t.log_probability is not None
    ]
    above.plot([c for c, _ in points], [p for _, p in points], marker="o", markersize=4, linewidth=1)
    above.set_xlabel(f"{column_label(front.resource)} ({unit})")
    above.set_ylabel("log-probability")
    above.set_title(f"{front.run}: most probable trees by budget\nno quality is measured", fontsize="medium")
    above.grid(visible=True, linewidth=0.3)
    groups = [tree.groups for tree in trees]
    below.imshow(groups, aspect="auto", cmap="Blues", vmin=0, vmax=len(front.tasks) * 1.4)
    for row, counts in enumerate(groups):
        for column, count in enumerate(counts):
            below.text(column, row, str(count), ha="center", va="center", fontsize="x-small")
    below.set_yticks(range(len(trees)), [format_quantity(cost, front.resource) for cost in costs], fontsize="small")
    below.set_xticks(range(len(front.layers)), front.layers, rotation=90, fontsize="x-small")
    below.set_title("groups alive in each layer", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")

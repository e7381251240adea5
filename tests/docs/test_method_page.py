"""The example of docs/method.md, computed with the package `costs`, and by going through all draws."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from costs import BudgetBelowReach, CostTable, Resource, best_architecture, expected_cost, expected_groups
from costs.groupings import grouping_probabilities
from costs.published import published_layer_costs

TASKS = ("semseg", "depth", "edge")
ROWS = [[[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]], [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]]
PROBABILITIES = torch.tensor(ROWS, dtype=torch.float64)
TABLE = CostTable(
    backbone="example",
    tasks=TASKS,
    input_size=(64, 64),
    batch=1,
    depends_on={Resource.MADDS: "groups_proportional"},
    layers=[{"name": "1", "per_group": {"madds": 100}}, {"name": "2", "per_group": {"madds": 200}}],
    fixed=[{"name": "stem", "shared": True, "tasks": TASKS, "cost": {"madds": 50}}],
    provenance={},
)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "method.md").read_text(encoding="utf-8")


def table_after(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a text, without its head."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), page[page.rindex(heading) :].splitlines())
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def enumerated_groups() -> list[float]:
    """Return the expected number of groups of both layers by going through all 2^6 draws."""
    totals = [0.0, 0.0]
    for draws in itertools.product(itertools.product(range(2), repeat=3), repeat=2):
        probability = math.prod(ROWS[layer][task][draws[layer][task]] for layer in range(2) for task in range(3))
        for layer in range(2):
            ways = {tuple(draws[i][task] for i in range(layer + 1)) for task in range(3)}
            totals[layer] += probability * len(ways)
    return totals


def test_the_rows_are_those_of_the_page(page: str) -> None:
    rows = table_after(page, "## An example to follow")
    assert [[[float(v) for v in cell.split(",")] for cell in row[1:]] for row in rows] == ROWS


def test_groups_and_cost(page: str) -> None:
    groups = expected_groups(PROBABILITIES).tolist()
    assert groups == pytest.approx(enumerated_groups())
    assert "= 1.63. Layer 2:" in page
    assert "+ 0.0407 = 2.2819." in page
    assert groups == pytest.approx([1.63, 2.2819])
    assert "= 669.38." in page
    assert expected_cost(PROBABILITIES, TABLE, Resource.MADDS).item() == pytest.approx(669.38)


def test_groupings(page: str) -> None:
    shown = [[float(cell) for cell in row[1:]] for row in table_after(page, "**Groupings.**")]
    found = grouping_probabilities(PROBABILITIES.numpy())
    assert [list(column) for column in zip(*shown, strict=True)] == [
        pytest.approx(row, abs=5e-5) for row in found.tolist()
    ]


def test_the_published_estimate(page: str) -> None:
    published = published_layer_costs(PROBABILITIES, TABLE, Resource.MADDS).tolist()
    exact = (200 * expected_groups(PROBABILITIES)[1]).item()
    found = re.search(r"comes out at ([\d.]+) instead of ([\d.]+)\.", page)
    assert found is not None
    assert (published[1], exact) == pytest.approx((float(found[1]), float(found[2])), abs=5e-3)


def test_decoding(page: str) -> None:
    rows = table_after(page, "**Decoding.**")
    assert len(rows) == 4
    for budget, _, probability, cost in rows[:3]:
        found = best_architecture(PROBABILITIES.numpy(), TABLE, [f"{budget}MAdds"])
        assert math.exp(found.log_probability) == pytest.approx(float(probability), abs=5e-5)
        assert found.cost[Resource.MADDS] == float(cost)
    with pytest.raises(BudgetBelowReach, match="reachable is 350"):
        best_architecture(PROBABILITIES.numpy(), TABLE, [f"{rows[3][0]}MAdds"])

"""The picture of a tree: the order of its rows, the widths of its columns, and that something is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bmtas.architecture import BranchedArchitecture
from bmtas.plots_tree import draw_tree, layer_widths, row_order
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TASKS = ("a", "b", "c", "d")
TREE = BranchedArchitecture(
    backbone="mobilenet_v2",
    tasks=TASKS,
    groupings=((("a", "b", "c", "d"),), (("a", "d"), ("b", "c")), (("a", "d"), ("b",), ("c",))),
)


def test_groups_stand_together() -> None:
    assert row_order(TREE) == ["a", "d", "b", "c"]
    assert row_order(BranchedArchitecture.shared("mobilenet_v2", TASKS, 3)) == list(TASKS)


@pytest.fixture
def table() -> CostTable:
    return CostTable(
        backbone="mobilenet_v2",
        tasks=TASKS,
        input_size=(32, 32),
        batch=1,
        layers=[LayerCost(name=f"layers.{i:02d}", per_group={Resource.MADDS: c}) for i, c in enumerate((10, 30, 60))],
        fixed=[FixedCost(name="stem", shared=True, tasks=TASKS, cost={Resource.MADDS: 5.0})],
        provenance={"counter": "made up"},
    )


def test_columns_are_as_wide_as_their_cost(table: CostTable) -> None:
    assert layer_widths(table, Resource.MADDS) == pytest.approx([0.1, 0.3, 0.6])


def test_each_task_has_a_line_of_its_colour_through_all_layers(table: CostTable, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    draw_tree(TREE, table, tmp_path / "tree.png")
    picture = image.imread(tmp_path / "tree.png")[..., :3]
    rows = []
    for colour in ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"):  # C0 to C3, the tasks a to d
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        found = np.argwhere(np.abs(picture - wanted).max(axis=2) < 0.02)
        rows.append(np.median(found[:, 0]))
        across = len(np.unique(found[:, 1]))
        assert across > 0.8 * picture.shape[1]
    a, b, c, d = rows
    assert a < d < b < c

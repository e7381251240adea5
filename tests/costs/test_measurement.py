"""What a measured table says of its measurement: kept, checked, and no part of tables that were counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from costs import CostError, CostTable, Resource
from costs.join import join_tables
from costs.measurement import HeldOut, Measurement

MS, MADDS, ENERGY = Resource.LATENCY_MS, Resource.MADDS, Resource.ENERGY_MJ
MakeTable = Callable[..., CostTable]


def measurement(**held_out: Any) -> Measurement:
    """Return that of a table that is within 2 % of whole networks, measured on a machine called A."""
    told: dict[str, Any] = {
        "networks": 20,
        "median_error": 0.02,
        "median_interval": (0.01, 0.03),
        "worst_error": 0.06,
        "ratio_interval": (0.95, 1.04),
        "proportional_median_error": 0.2,
        "proportional_worst_error": 0.5,
    }
    return Measurement(
        precision="fp32",
        runtime="onnxruntime 1.31.1",
        provider="CPUExecutionProvider",
        threads=1,
        device={"title": "A"},
        date="2026-01-02T03:04:05+00:00",
        samples=48,
        spread=0.001,
        held_out=HeldOut(**{**told, **held_out}),
        coefficients={"sum": 0.9, "elements": 0.0, "constant": 0.1},
    )


@pytest.fixture
def table(make_general_table: MakeTable) -> CostTable:
    made = make_general_table(2, np.array([[1.0, 1.5], [2.0, 3.0]]))
    return made.model_copy(update={"measured": {MS: measurement()}})


def test_it_is_written_and_reads_back(table: CostTable) -> None:
    read = CostTable.from_json(table.to_json())
    assert read == table
    assert read.measured[MS].held_out.ratio_interval == (0.95, 1.04)
    assert json.loads(table.to_json())["measured"]["latency_ms"]["device"] == {"title": "A"}


def test_a_counted_table_is_written_as_before(make_table: MakeTable) -> None:
    counted = make_table(2, [3.0, 5.0])
    assert counted.measured == {}
    assert "measured" not in json.loads(counted.to_json())


def test_tables_that_were_measured_differently_are_not_equal(table: CostTable) -> None:
    other = table.model_copy(update={"measured": {MS: measurement(worst_error=0.07)}})
    assert other != table
    assert table.model_copy(update={"measured": {}}) != table


def test_it_stays_with_some_of_the_tasks_and_with_a_table_that_is_joined(
    table: CostTable, make_general_table: MakeTable
) -> None:
    assert table.subset(["t1"]).measured == table.measured
    counted = table.model_copy(
        update={
            "depends_on": {MADDS: "groups_proportional"},
            "measured": {},
            "layers": [layer.model_copy(update={"per_count": {}}) for layer in table.layers],
            "fixed": [part.model_copy(update={"cost": {MADDS: part.cost[MADDS]}}) for part in table.fixed],
        }
    )
    joined = join_tables(counted, table, "measured.json")
    assert joined.measured == table.measured
    assert joined.resources() == (MADDS, MS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"energy_mj": measurement().model_dump(mode="json")}, "measured speaks of energy_mj"),
        ({"latency_ms": {"precision": "fp32"}}, "measured.latency_ms"),
        ({"latency_ms": {**measurement().model_dump(mode="json"), "colour": "red"}}, "leave it out"),
        ({"latency_ms": {**measurement().model_dump(mode="json"), "samples": 0}}, "samples"),
        ({"latency_ms": {**measurement().model_dump(mode="json"), "spread": -0.1}}, "spread"),
        ({"speed": measurement().model_dump(mode="json")}, "'speed' is no resource known here"),
    ],
)
def test_what_breaks_the_rules_is_refused(change: dict[str, Any], words: str, table: CostTable) -> None:
    data = json.loads(table.to_json())
    data["measured"] = change
    with pytest.raises(CostError, match=words):
        CostTable.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "change", [{"median_error": -0.1}, {"networks": 0}, {"ratio_interval": (0.0, 1.0)}, {"worst_error": float("inf")}]
)
def test_errors_and_ratios_are_numbers_that_can_be(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        measurement(**change)

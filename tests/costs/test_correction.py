"""Correcting a table by a network that was measured after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costs import CostError, CostTable, Resource
from costs.correction import corrected, scaled, with_margin
from tests.costs.test_measurement import measurement

MS, MADDS = Resource.LATENCY_MS, Resource.MADDS
COSTS = np.array([[1.0, 1.5, 2.5], [2.0, 3.0, 3.25], [4.0, 4.5, 8.0]])
MakeTable = Callable[..., CostTable]


@pytest.fixture
def table(make_general_table: MakeTable) -> CostTable:
    made = make_general_table(3, COSTS)
    return made.model_copy(update={"measured": {MS: measurement()}})


class TestScaled:
    @pytest.mark.parametrize("counts", [(1, 1, 1), (1, 2, 3), (3, 3, 3)])
    def test_every_network_costs_so_many_times_as_much(self, counts: Sequence[int], table: CostTable) -> None:
        twice = scaled(table, MS, 2.5)
        by_hand = 0.5 + sum(COSTS[i, n - 1] for i, n in enumerate(counts))  # the stem takes half a ms
        assert table.architecture_cost(counts, MS) == by_hand
        assert twice.architecture_cost(counts, MS) == pytest.approx(2.5 * by_hand, rel=1e-14)
        assert twice.separate_total(MS) == pytest.approx(2.5 * table.separate_total(MS), rel=1e-14)
        assert twice.architecture_cost(counts, MADDS) == table.architecture_cost(counts, MADDS)
        assert twice.measured == table.measured

    def test_costs_per_group_and_per_partition(self, make_table: MakeTable, make_general_table: MakeTable) -> None:
        per_group = make_table(2, [3.0, 5.0])
        assert scaled(per_group, MADDS, 3.0).layer_costs(MADDS).tolist() == [9.0, 15.0]
        assert scaled(per_group, "madds", 3.0).fixed_cost(MADDS) == 3 * per_group.fixed_cost(MADDS)  # type: ignore[arg-type]
        per_partition = make_general_table(3, np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))
        tree: Any = [[[0, 2], [1]]]
        before = per_partition.architecture_cost(tree, MS)
        assert scaled(per_partition, MS, 3.0).architecture_cost(tree, MS) == pytest.approx(3 * before)

    @pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_factor_is_positive_and_finite(self, factor: float, table: CostTable) -> None:
        with pytest.raises(CostError, match="it is to be positive and finite"):
            scaled(table, MS, factor)

    def test_an_unknown_resource_is_refused(self, table: CostTable) -> None:
        with pytest.raises(CostError, match="not energy_mj"):
            scaled(table, Resource.ENERGY_MJ, 2.0)


class TestCorrected:
    def test_the_network_costs_what_it_was_measured_to_take_at_most(self, table: CostTable) -> None:
        counts = (1, 2, 3)  # 0.5 + 1 + 3 + 8
        right = corrected(table, MS, counts, 12.5, 14.5, 15.0)
        assert right.architecture_cost(counts, MS) == pytest.approx(15.0, rel=1e-11)
        assert right.architecture_cost((1, 1, 1), MS) == pytest.approx(7.5 * 15 / 12.5, rel=1e-11)

    def test_corrections_are_noted_in_order(self, table: CostTable) -> None:
        once = corrected(table, MS, (1, 2, 3), 12.5, 14.5, 15.0)
        twice = corrected(once, MS, (1, 1, 1), 9.0, 8.0, 8.1)
        noted = twice.measured[MS].corrections
        assert [(n.group_counts, n.predicted, n.median, n.upper) for n in noted] == [
            ([1, 2, 3], 12.5, 14.5, 15.0),
            ([1, 1, 1], 9.0, 8.0, 8.1),
        ]
        assert [n.factor for n in noted] == pytest.approx([1.2, 0.9], rel=1e-11)
        assert table.measured[MS].corrections == []
        assert CostTable.from_json(twice.to_json()) == twice

    def test_a_table_of_unknown_origin_is_corrected_without_a_note(self, make_general_table: MakeTable) -> None:
        table = make_general_table(3, COSTS)
        right = corrected(table, MS, (1, 1, 1), 7.5, 14.0, 15.0)
        assert right.shared_total(MS) == pytest.approx(15.0, rel=1e-11)
        assert right.measured == {}

    @pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, float("nan")), (1.0, float("inf"))])
    def test_what_is_no_time_is_refused(self, pair: tuple[float, float], table: CostTable) -> None:
        with pytest.raises(CostError, match="it is to be positive and finite"):
            corrected(table, MS, (1, 1, 1), pair[0], 1.0, pair[1])

    @given(
        costs=st.lists(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), min_size=1, max_size=20),
        draws=st.randoms(use_true_random=False),
        factor=st.floats(1e-3, 1e3),
    )
    def test_what_was_over_a_budget_is_over_it_by_the_table(
        self, make_general_table: MakeTable, costs: list[list[float]], draws: Any, factor: float
    ) -> None:
        """Rounding must not let a network be found again that has just been measured to take too long."""
        table = make_general_table(3, np.array(costs), madds=[1.0] * len(costs))
        counts = sorted(draws.choice((1, 2, 3)) for _ in costs)
        predicted = table.architecture_cost(counts, MS)
        measured = predicted * factor
        assert corrected(table, MS, counts, predicted, measured / 2, measured).architecture_cost(counts, MS) >= measured


class TestWithMargin:
    def measured(self, make_general_table: MakeTable, worst: float) -> CostTable:
        known = {MS: measurement(ratio_interval=(0.9, worst))}
        return make_general_table(3, COSTS).model_copy(update={"measured": known})

    def test_costs_are_as_much_higher_as_the_worst_network_was(self, make_general_table: MakeTable) -> None:
        table = self.measured(make_general_table, 1.25)
        higher = with_margin(table, MS)
        assert higher.shared_total(MS) == pytest.approx(1.25 * 7.5, rel=1e-14)
        assert higher.measured[MS].margin == 1.25
        assert higher.measured[MS].held_out == table.measured[MS].held_out
        assert CostTable.from_json(higher.to_json()) == higher

    def test_a_margin_is_not_added_twice(self, make_general_table: MakeTable) -> None:
        higher = with_margin(self.measured(make_general_table, 1.25), MS)
        assert with_margin(higher, MS) == higher

    def test_a_table_that_was_always_above_needs_none(self, make_general_table: MakeTable) -> None:
        table = self.measured(make_general_table, 0.97)
        assert with_margin(table, MS) == table

    def test_a_correction_takes_its_place(self, make_general_table: MakeTable) -> None:
        """The network was measured: what it takes at most stands in the table, and a margin would be on top of that."""
        higher = with_margin(self.measured(make_general_table, 1.25), MS)
        right = corrected(higher, MS, (1, 1, 1), 1.25 * 7.5, 8.0, 8.5)
        assert right.measured[MS].margin == 1.0
        assert right.shared_total(MS) == pytest.approx(8.5, rel=1e-11)

    def test_without_a_held_out_error_there_is_none(self, make_general_table: MakeTable) -> None:
        with pytest.raises(CostError, match="has no held-out error to take a margin by"):
            with_margin(make_general_table(3, COSTS), MS)

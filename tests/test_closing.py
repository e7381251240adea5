"""What is handed over was measured to be within the budget: the loop, with devices that are formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.closing import settle
from bmtas.errors import BudgetError
from bmtas.methods.finder import Found
from bmtas.progress import Silent
from bmtas.readings import Reading
from costs.decode import best_architecture
from costs.measurement import HeldOut, Measurement
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Budget, Resource, parse_budget

MS, MADDS, ENERGY = Resource.LATENCY_MS, Resource.MADDS, Resource.ENERGY_MJ
Device = Callable[[Sequence[int]], float]


def table_of(latency: Sequence[Sequence[float]], fixed: float = 0.5) -> CostTable:
    """A measured table of as many tasks as a layer has costs; each layer has 1 MAdd per group."""
    names = [f"t{i}" for i in range(len(latency[0]))]
    known = HeldOut(
        networks=20,
        median_error=0.02,
        median_interval=(0.01, 0.03),
        worst_error=0.06,
        ratio_interval=(0.95, 1.05),
        proportional_median_error=0.2,
        proportional_worst_error=0.5,
    )
    about = Measurement(
        precision="fp32",
        runtime="onnxruntime 1.31.1",
        provider="CPUExecutionProvider",
        threads=1,
        device={},
        date="2026-01-02",
        samples=48,
        spread=0.001,
        held_out=known,
        coefficients={},
    )
    return CostTable(
        backbone="toy",
        tasks=names,
        input_size=(64, 96),
        batch=1,
        depends_on={MADDS: "groups_proportional", MS: "group_count"},
        layers=[
            LayerCost(name=f"layer{i}", per_group={MADDS: 1.0}, per_count={MS: list(costs)})
            for i, costs in enumerate(latency)
        ],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={MS: fixed, MADDS: 0.0})],
        provenance={},
        measured={MS: about},
    )


class Finder:
    """The most probable tree within the budgets, where every task would best go its own way."""

    def __init__(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        count = len(table.tasks)
        own = np.full((count, count), 0.1 / max(count - 1, 1))
        np.fill_diagonal(own, 0.9)
        self._probabilities = np.broadcast_to(own, (len(table.layers), count, count))
        self._budgets = budgets

    def __call__(self, table: CostTable) -> Found:
        decoded = best_architecture(self._probabilities, table, self._budgets)
        names = tuple(table.tasks)
        groupings = tuple(tuple(tuple(names[t] for t in b) for b in grouping) for grouping in decoded.groupings)
        return Found(
            BranchedArchitecture(backbone=table.backbone, tasks=names, groupings=groupings), {"decode": "best"}
        )


class Meter:
    """Measures what `device` says that a tree takes; `upper` times as much is the end of the interval."""

    def __init__(self, device: Device, upper: float = 1.0) -> None:
        self._device, self._upper = device, upper
        self.measured: list[tuple[int, ...]] = []

    def __call__(self, architecture: Architecture) -> Mapping[Resource, Reading]:
        self.measured.append(architecture.group_counts)
        median = self._device(architecture.group_counts)
        return {MS: Reading(median, median * self._upper)}


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def depth_of(counts: Sequence[int]) -> int:
    """In how many layers two tasks are apart."""
    return sum(counts) - len(counts)


# Four layers of 1 ms shared and 2 ms apart, and a stem of 0.5: a tree of two tasks costs 4.5 ms and 1 ms per layer apart.
FOUR = table_of([[1.0, 2.0]] * 4)
BUDGET = (parse_budget("7.6ms"),)


class TestByHand:
    def test_a_device_as_fast_as_its_table_needs_one_trial(self) -> None:
        meter, notes = Meter(lambda counts: 4.5 + depth_of(counts)), Notes()
        settled = settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, notes)
        assert meter.measured == [(1, 2, 2, 2)]  # 7.5 ms
        assert settled.found.architecture.group_counts == (1, 2, 2, 2)
        assert settled.found.details == {"decode": "best"}
        assert settled.table == FOUR
        assert settled.measured == {MS: Reading(7.5, 7.5)}
        assert settled.trials == [
            {"group_counts": [1, 2, 2, 2], "latency_ms": {"predicted": 7.5, "measured": 7.5, "measured_at_most": 7.5}}
        ]
        assert notes.said == ["latency: predicted 7.500 ms, measured 7.500 ms (+0.0%)"]

    def test_a_device_slower_by_a_fifth_needs_two(self) -> None:
        """7.5 ms are 9.0, over 7.6. All costs times 1.2: one layer apart is 6.6, two are 7.8; measured, 6.6 is 6.6."""
        meter, notes = Meter(lambda counts: 1.2 * (4.5 + depth_of(counts))), Notes()
        settled = settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, notes)
        assert meter.measured == [(1, 2, 2, 2), (1, 1, 1, 2)]
        assert [trial["latency_ms"]["predicted"] for trial in settled.trials] == pytest.approx([7.5, 6.6])
        assert [trial["latency_ms"]["measured"] for trial in settled.trials] == pytest.approx([9.0, 6.6])
        assert settled.table.shared_total(MS) == pytest.approx(1.2 * 4.5)
        (noted,) = settled.table.measured[MS].corrections
        assert (noted.group_counts, noted.predicted, noted.median, noted.upper) == ([1, 2, 2, 2], 7.5, 9.0, 9.0)
        assert any(
            "up to 9.000 ms (upper end of the interval), over 7.6ms: the table is corrected" in text
            for text in notes.said
        )

    def test_every_trial_is_kept_as_soon_as_it_is_measured(self) -> None:
        kept: list[list[int]] = []

        def keep(trials: list[dict[str, Any]]) -> None:
            kept.append([depth_of(trial["group_counts"]) for trial in trials])

        meter = Meter(lambda counts: 1.2 * (4.5 + depth_of(counts)))
        settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, Silent(), keep)
        assert kept == [[3], [3, 1]]

    def test_what_else_is_told_of_a_measurement_stands_in_the_trial(self) -> None:
        reading = Reading(7.5, 7.55, {"stable": True, "samples": 12})
        settled = settle(Finder(FOUR, BUDGET), FOUR, BUDGET, lambda architecture: {MS: reading}, Silent())
        assert settled.trials[0]["latency_ms"] == {
            "predicted": 7.5,
            "measured": 7.5,
            "measured_at_most": 7.55,
            "stable": True,
            "samples": 12,
        }

    def test_the_upper_end_of_the_interval_counts(self) -> None:
        """7.5 ms with an interval up to 7.65 may be over 7.6: the next tree, 6.5 to 6.63 ms, is not."""
        meter = Meter(lambda counts: 4.5 + depth_of(counts), upper=1.02)
        settled = settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, Silent())
        assert meter.measured == [(1, 2, 2, 2), (1, 1, 2, 2)]
        assert settled.measured[MS] == Reading(6.5, 6.5 * 1.02)
        (noted,) = settled.table.measured[MS].corrections
        assert (noted.median, noted.upper) == pytest.approx((7.5, 7.65))

    @pytest.mark.parametrize("stable", [True, False])
    def test_a_refusal_tells_of_a_machine_that_was_not_at_rest(self, stable: bool) -> None:
        def meter(architecture: Architecture) -> dict[Resource, Reading]:
            return {MS: Reading(100.0, 100.0, {"stable": stable})}

        with pytest.raises(BudgetError) as caught:
            settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, Silent())
        assert ("was not at rest" in str(caught.value)) is not stable

    def test_where_nothing_fits_all_that_was_measured_is_told(self) -> None:
        """All shared would take 4.5 x 100 / 7.5 = 60 ms by the corrected table."""
        meter = Meter(lambda counts: 100.0)
        with pytest.raises(BudgetError) as caught:
            settle(Finder(FOUR, BUDGET), FOUR, BUDGET, meter, Silent())
        told = str(caught.value)
        assert meter.measured == [(1, 2, 2, 2)]
        assert "reachable is 60.01 ms (all layers shared)" in told
        assert "Measured: 100.0 ms with 7 groups. Raise the budget" in told
        assert caught.value.exit_code == 6

    def test_it_ends_after_twelve_trials(self) -> None:
        """Twenty layers, each trial just over the budget: by each correction one layer less is apart."""
        table = table_of([[1.0, 2.0]] * 20)
        budget = (parse_budget("36.6ms"),)  # 16 of 20 layers apart: 20.5 + 16
        meter = Meter(lambda counts: 36.6001)
        with pytest.raises(BudgetError, match="12 networks within the budget by the table were measured to be over it"):
            settle(Finder(table, budget), table, budget, meter, Silent())
        assert [depth_of(counts) for counts in meter.measured] == list(range(16, 4, -1))

    def test_a_method_that_has_one_architecture_ends_at_once(self) -> None:
        shared = Found(BranchedArchitecture.shared("toy", FOUR.tasks, 4))
        meter = Meter(lambda counts: 7.7)
        with pytest.raises(
            BudgetError,
            match=r"no other architecture is to be had by this method. Measured: 7.700 ms with 4 groups",
        ):
            settle(lambda table: shared, FOUR, BUDGET, meter, Silent())
        assert meter.measured == [(1, 1, 1, 1)]

    def test_separate_networks_are_predicted_as_such(self) -> None:
        separate = Found(BranchedArchitecture.separate("toy", FOUR.tasks, 4))
        budget = (parse_budget("20ms"),)
        settled = settle(lambda table: separate, FOUR, budget, Meter(lambda counts: 9.5), Silent())
        assert settled.trials[0]["latency_ms"]["predicted"] == 9.0  # two stems, and four layers with two copies

    def test_what_is_not_measured_is_not_asked_for(self) -> None:
        budgets = (parse_budget("7.6ms"), parse_budget("7MAdds"))
        finder = Finder(FOUR, budgets)
        settled = settle(finder, FOUR, budgets, lambda architecture: {}, Silent())
        assert settled.found.architecture.group_counts == (1, 2, 2, 2)  # 7 MAdds
        assert settled.measured == {}
        assert settled.trials == [{"group_counts": [1, 2, 2, 2]}]
        assert settled.table == FOUR

    def test_of_two_budgets_the_measured_one_is_corrected(self) -> None:
        budgets = (parse_budget("7.6ms"), parse_budget("6MAdds"))
        meter = Meter(lambda counts: 1.3 * (4.5 + depth_of(counts)))
        settled = settle(Finder(FOUR, budgets), FOUR, budgets, meter, Silent())
        assert meter.measured == [(1, 1, 2, 2), (1, 1, 1, 2)]  # 6 MAdds: 8.45 ms; then 7.15
        assert settled.table.layer_costs(MADDS).tolist() == [1.0] * 4


@given(
    costs=st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3).map(sorted), min_size=2, max_size=8),
    factors=st.lists(st.floats(0.5, 2.5), min_size=28, max_size=28),
    share=st.floats(0.0, 1.2),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_device_does_what_is_handed_over_is_within_the_budget(
    costs: list[list[float]], factors: list[float], share: float
) -> None:
    """Each tree off by a factor of its own: no tree is measured twice, and it ends."""
    table = table_of(costs)
    ends = table.shared_total(MS), table.split_total(MS)
    limit = ends[0] + share * (ends[1] - ends[0])
    budget = (Budget(MS, limit, f"{limit}ms"),)

    def device(counts: Sequence[int]) -> float:
        predicted = table.architecture_cost(list(counts), MS)
        return predicted * factors[sum((i + 1) * n for i, n in enumerate(counts)) % len(factors)]

    meter = Meter(device)
    try:
        settled = settle(Finder(table, budget), table, budget, meter, Silent())
    except BudgetError:
        assert all(device(counts) > limit for counts in meter.measured)
    else:
        assert settled.measured[MS].upper <= limit
        assert device(settled.found.architecture.group_counts) <= limit
        assert [tuple(trial["group_counts"]) for trial in settled.trials] == meter.measured
        corrections = settled.table.measured[MS].corrections
        assert len(corrections) == len(meter.measured) - 1
        assert all(noted.factor > 1 for noted in corrections)
    assert len(set(meter.measured)) == len(meter.measured) <= 12

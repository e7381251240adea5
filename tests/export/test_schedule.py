"""Which task runs in which frame, by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bmtas.errors import UsageError
from export.stages.schedule import Schedule


class TestSchedule:
    @pytest.mark.parametrize(
        ("rates", "frames"),
        [
            ({"a": "1"}, {"a": range(12)}),
            ({"a": "1/5"}, {"a": [0, 5, 10]}),
            ({"a": "0.2", "b": "1/5"}, {"a": [0, 5, 10], "b": [1, 6, 11]}),
            ({"a": "1", "b": "1/2", "c": "1/2", "d": "1/2"}, {"b": [0, 2, 4, 6, 8, 10], "c": [1, 3, 5, 7, 9, 11]}),
            ({"a": "2/5"}, {"a": [0, 3, 5, 8, 10]}),  # floor(2 i / 5): 0 0 0 1 1 2 2 2 3 3 4 4
            ({"a": "1/2", "b": "2/3"}, {"a": [0, 2, 4, 6, 8, 10], "b": [0, 1, 3, 4, 6, 7, 9, 10]}),  # phase 2
            ({"a": " 3/3 "}, {"a": range(12)}),
        ],
    )
    def test_by_hand(self, rates: dict[str, str], frames: dict[str, list[int]]) -> None:
        schedule = Schedule.parse(rates)
        for task, expected in frames.items():
            assert [i for i in range(12) if task in schedule.due(i)] == list(expected)

    def test_rates_are_kept_over_any_period(self) -> None:
        schedule = Schedule.parse({"a": "1", "b": "3/7", "c": "2/7", "d": "1/30"})
        for task, rate in schedule.rates.items():
            due = [task in schedule.due(i) for i in range(420)]
            period = rate.denominator
            assert {sum(due[i : i + period]) for i in range(420 - period)} == {rate.numerator}
        assert schedule.rates["d"] == Fraction(1, 30)

    @pytest.mark.parametrize("rate", ["0", "-1/2", "2", "1/0", "often", "", "nan", "inf"])
    def test_other_rates_are_refused(self, rate: str) -> None:
        with pytest.raises(UsageError, match=r"'depth'.*above 0 and up to 1"):
            Schedule.parse({"depth": rate})

    def test_no_rate_is_no_schedule(self) -> None:
        with pytest.raises(UsageError, match="names no task"):
            Schedule.parse({})

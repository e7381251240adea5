"""Energy and power from known readings; every number is worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.machine.trace import (
    Trace,
    between,
    energy_of_counter_mj,
    energy_of_power_mj,
    power_of_counter,
    series,
    unwrapped,
)


def test_constant_power() -> None:
    times, watts = np.array([10.0, 11.0, 12.0]), np.array([10.0, 10.0, 10.0])
    assert energy_of_power_mj(times, watts, 10.0, 12.0) == 20000.0  # 10 W for 2 s
    assert energy_of_power_mj(times, watts, 10.5, 10.75) == 2500.0  # between two readings
    assert energy_of_power_mj(times, watts, 9.5, 12.5) == 30000.0  # held at the ends


def test_rising_power() -> None:
    times, watts = np.array([0.0, 1.0]), np.array([0.0, 10.0])
    assert energy_of_power_mj(times, watts, 0.0, 1.0) == pytest.approx(5000.0)
    assert energy_of_power_mj(times, watts, 0.25, 0.75) == pytest.approx(
        2500.0
    )  # 10 t from 0.25 to 0.75: 5 * (0.5625 - 0.0625) J
    assert energy_of_power_mj(times, watts, 0.5, 1.0) == pytest.approx(3750.0)


def test_a_peak_is_integrated_by_trapezoids() -> None:
    times, watts = np.array([0.0, 0.1, 0.3, 0.4]), np.array([2.0, 8.0, 4.0, 4.0])
    # 0.1 * (2+8)/2 + 0.2 * (8+4)/2 + 0.1 * 4 = 0.5 + 1.2 + 0.4 J
    assert energy_of_power_mj(times, watts, 0.0, 0.4) == pytest.approx(2100.0)


def test_a_counter_that_begins_again() -> None:
    counts = unwrapped(np.array([900.0, 950.0, 20.0, 70.0]), 1000.0)
    assert counts.tolist() == [900.0, 950.0, 1020.0, 1070.0]
    times = np.array([0.0, 1.0, 2.0, 3.0])
    assert energy_of_counter_mj(times, counts, 0.0, 3.0) == 170.0
    assert energy_of_counter_mj(times, counts, 0.5, 1.5) == pytest.approx(60.0)  # 25 + 35
    assert energy_of_counter_mj(times, counts, 0.0, 3.5) == pytest.approx(195.0)  # goes on as between the last two
    assert energy_of_counter_mj(times, counts, -0.5, 1.0) == pytest.approx(75.0)


def test_a_counter_without_an_end_is_left_as_it_is() -> None:
    assert unwrapped(np.array([5.0, 7.0]), math.inf).tolist() == [5.0, 7.0]


def test_power_of_a_counter() -> None:
    times, counts = np.array([0.0, 0.1, 0.1001, 0.2]), np.array([0.0, 500.0, 500.0, 1500.0])
    at, watts = power_of_counter(times, counts, 0.05)
    assert at.tolist() == pytest.approx([0.05, 0.15])
    assert watts.tolist() == pytest.approx([5.0, 10.0])  # 500 mJ and 1000 mJ in 0.1 s
    assert power_of_counter(times[:1], counts[:1], 0.05)[1].tolist() == []
    assert power_of_counter(times[:2], counts[:2], 1.0)[1].tolist() == pytest.approx([5.0])


def test_whether_readings_cover_an_interval() -> None:
    times = np.array([1.0, 2.0])
    assert between(times, 1.0, 2.0, 0.0)
    assert between(times, 0.9, 2.1, 0.2)
    assert not between(times, 0.5, 2.0, 0.2)
    assert not between(times, 1.0, 3.0, 0.2)
    assert not between(np.array([]), 1.0, 2.0, 1.0)


def test_readings_that_failed_are_left_out() -> None:
    trace = Trace(["a", "b"])
    trace.add(1.0, [5.0, None])
    trace.add(2.0, [None, 7.0])
    trace.add(3.0, [9.0, 8.0])
    assert [column.tolist() for column in trace.column("a")] == [[1.0, 3.0], [5.0, 9.0]]
    assert trace.span() == (1.0, 3.0)
    told = series(trace.column("a")[1])
    assert told is not None
    assert (told.start, told.min, told.median, told.max) == (5.0, 5.0, 7.0, 9.0)
    assert series(np.array([])) is None

"""Energy per inference from sensors that are files: a board whose power is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from export.bench.energy import energy_of, measures_power
from export.machine.sampler import Sampler


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    """A root with one RAPL counter, in uJ, that stands still."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    return tmp_path


def test_a_machine_without_sensors_measures_none(tmp_path: Path) -> None:
    assert not measures_power(tmp_path)
    with Sampler(root=tmp_path, interval_s=0.02) as sampler:
        start = time.perf_counter()
        time.sleep(0.2)
        found = energy_of(sampler, start, time.perf_counter(), 10)
    assert found.gross_mj is None
    assert found.net_mj is None
    assert found.unavailable


def test_energy_is_shared_among_inferences_and_the_idle_machine_s_taken_off(rapl: Path) -> None:
    assert measures_power(rapl)
    counter = rapl / "sys/class/powercap/intel-rapl:0/energy_uj"
    with Sampler(root=rapl, interval_s=0.02) as sampler:
        time.sleep(0.1)
        start = time.perf_counter()
        time.sleep(0.1)
        counter.write_text("1600000")  # 0.6 J later
        time.sleep(0.1)
        end = time.perf_counter()
        time.sleep(0.05)
        rails = sampler.energy_mj(start, end)
        assert rails is not None
        (rail,) = rails
        sampler.idle_power_w = {rail: 1.0}
        found = energy_of(sampler, start, end, 100)
    assert found.gross_mj == {rail: pytest.approx(6.0, rel=1e-6)}
    assert found.net_mj == {rail: pytest.approx(6.0 - (end - start) * 1000 / 100, rel=1e-6)}
    assert (found.inferences, found.sampling_interval_s, found.main_rail) == (100, 0.02, rail)


def test_what_is_too_short_for_the_sampling_is_not_told(rapl: Path) -> None:
    with Sampler(root=rapl, interval_s=0.05) as sampler:
        time.sleep(0.1)
        start = time.perf_counter()
        time.sleep(0.2)
        found = energy_of(sampler, start, start + 0.06, 1)
    assert found.gross_mj is None
    assert "too short" in str(found.unavailable)

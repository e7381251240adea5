"""Energy per inference from sensors that are files: a board whose power is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export.bench.candidates import Candidate
from export.bench.energy import energy_of, measure_energy, measures_power
from export.machine.sampler import Sampler
from tests.export.machine.stand_in import HandClock, RecordedNvml, grow, put

COUNTER = "sys/class/powercap/intel-rapl:0/energy_uj"
CPU = "CPUExecutionProvider"


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    """A root with one RAPL counter, in uJ, that stands at 1 J."""
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "262143328850")):
        put(tmp_path, f"sys/class/powercap/intel-rapl:0/{name}", text)
    return tmp_path


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def candidate(root: Path, clock: HandClock, provider: str = CPU, frames: int = 1) -> Candidate:
    """A network of half a second and 4 J."""
    total = 1_000_000

    def run() -> float:
        nonlocal total
        clock.advance(0.5)
        total += 4_000_000
        put(root, COUNTER, total)
        return 500.0

    return Candidate("a/onnxruntime", run, run, {"provider": provider}, [], None, 1, frames_per_call=frames)


def test_a_machine_without_sensors_measures_none(tmp_path: Path, clock: HandClock) -> None:
    assert not measures_power(tmp_path)
    with Sampler(tmp_path, interval_s=0.5, clock=clock) as sampler:
        clock.advance(5.0)
        found = energy_of(sampler, 100.0, 105.0, 10, CPU)
    assert (found.gross_mj, found.net_mj, found.main_rail) == (None, None, None)
    assert "power_w.cpu: the kernel has no RAPL counters here" in str(found.unavailable)


def test_energy_is_shared_among_inferences_and_the_idle_machine_s_taken_off(rapl: Path, clock: HandClock) -> None:
    assert measures_power(rapl)
    with Sampler(rapl, interval_s=60, clock=clock) as sampler:
        clock.advance(600.0)
        put(rapl, COUNTER, 901_000_000)  # 900 J later
        sampler.read_now()
        sampler.idle_power_w = {"package-0": 1.0}
        found = energy_of(sampler, 100.0, 700.0, 100, CPU)
    assert found.gross_mj == {"package-0": pytest.approx(9000.0)}
    assert found.net_mj == {"package-0": pytest.approx(3000.0)}  # 600 J were the idle machine's
    assert (found.inferences, found.sampling_interval_s, found.main_rail) == (100, 60.0, "package-0")


def test_each_candidate_runs_alone_until_there_are_readings_enough(rapl: Path, clock: HandClock) -> None:
    with Sampler(rapl, interval_s=60, clock=clock) as sampler:
        found = measure_energy([candidate(rapl, clock, frames=4)], sampler)["a/onnxruntime"]
    # Five intervals of a minute, 4 J in each half second, each call of four frames.
    assert (found.seconds, found.inferences) == (300.0, 2400)
    assert found.gross_mj == {"package-0": pytest.approx(1000.0)}


def test_what_is_too_short_for_the_sampling_is_not_told(rapl: Path, clock: HandClock) -> None:
    with Sampler(rapl, interval_s=60, clock=clock) as sampler:
        clock.advance(299.0)
        put(rapl, COUNTER, 2_000_000)
        sampler.read_now()
        found = energy_of(sampler, 100.0, 399.0, 1, CPU)
    assert found.gross_mj is None
    assert found.unavailable == "299.00 s are too short for power sampled every 60 s"


def test_an_idle_gpu_is_no_measure_of_the_processor(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordedNvml("gpu_desktop")
    recorded.answers["nvmlDeviceGetTotalEnergyConsumption"] = {"per_second": 30000}
    recorded.clock = clock
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    with Sampler(grow("desktop", tmp_path / "both"), interval_s=60, clock=clock) as sampler:
        one = measure_energy([candidate(tmp_path / "both", clock)], sampler)["a/onnxruntime"]
        other = measure_energy([candidate(tmp_path / "both", clock, "CUDAExecutionProvider")], sampler)["a/onnxruntime"]
    assert (one.main_rail, other.main_rail) == ("package-0", "gpu0")
    assert other.gross_mj is not None
    assert other.gross_mj["gpu0"] == pytest.approx(15000.0)  # 30 W for half a second
    put(tmp_path, "alone/proc/driver/nvidia/version", "550.144.03")
    with Sampler(tmp_path / "alone", interval_s=60, clock=clock) as sampler:
        alone = measure_energy([candidate(tmp_path / "alone", clock)], sampler)["a/onnxruntime"]
    assert (alone.main_rail, alone.gross_mj) == (None, None)
    assert "power_w.cpu: the kernel has no RAPL counters here" in str(alone.unavailable)

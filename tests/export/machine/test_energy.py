"""Energy of runs on counters and sensors that are files; the numbers are worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export.machine.energy import energy_of_runs, rail_for, run_for
from export.machine.sampler import Sampler
from tests.export.machine.stand_in import HandClock, RecordedNvml, grow, put

COUNTER = "sys/class/powercap/intel-rapl:0/energy_uj"


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A desktop: package-0 stands at 1 J, gpu0 beside it."""
    monkeypatch.setitem(sys.modules, "pynvml", RecordedNvml("gpu_desktop"))
    return grow("desktop", tmp_path)


def test_energy_is_shared_among_the_runs(desktop: Path) -> None:
    clock, total = HandClock(), 1_000_000

    def run() -> None:
        nonlocal total
        clock.advance(0.5)
        total += 3_000_000
        put(desktop, COUNTER, total)

    with Sampler(desktop, interval_s=60, clock=clock) as sampler:
        assert energy_of_runs(run, sampler, 2.0, "package-0") == pytest.approx(3000.0)
        clock.advance(100.0)  # what is between two stretches belongs to neither
        put(desktop, COUNTER, total := total + 50_000_000)
        assert energy_of_runs(run, sampler, 2.0, "package-0") == pytest.approx(3000.0)
        stretch = run_for(run, sampler, 0.1, least=3)
        assert (stretch.runs, stretch.end_s - stretch.start_s) == (3, 1.5)


def test_a_rail_that_tells_nothing_has_no_energy(desktop: Path) -> None:
    clock = HandClock()
    with Sampler(desktop, interval_s=60, clock=clock) as sampler:
        assert energy_of_runs(lambda: clock.advance(1.0), sampler, 3.0, "package-0") is None  # it stands still
        assert sampler.why_no_energy("package-0") == "package-0: its counter of energy stood still for 3 s"
        assert energy_of_runs(lambda: clock.advance(1.0), sampler, 3.0, "board") is None
        for seconds, least in ((0.0, 1), (float("nan"), 1), (1.0, 0)):
            with pytest.raises(ValueError, match="above 0"):
                run_for(lambda: clock.advance(1.0), sampler, seconds, least)


def test_a_counter_that_stands_still_tells_no_energy(desktop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, clock = RecordedNvml("gpu_desktop"), HandClock()
    recorded.answers["nvmlDeviceGetTotalEnergyConsumption"] = {"series": [5000]}
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    with Sampler(desktop, interval_s=60, clock=clock) as sampler:
        clock.advance(3.0)
        put(desktop, COUNTER, 7_000_000)
        sampler.read_now()
        assert sampler.energy_mj(100.0, 103.0) == {
            "package-0": 6000.0
        }  # from 1 J; neither core nor GPU, though it tells power
        assert sampler.why_no_energy("gpu0") == "gpu0: its counter of energy stood still for 3 s"
    told = sampler.conditions()
    assert told.unavailable["energy_mj.gpu0"] == "its counter of energy stood still for 3 s"
    assert "package-0 core" not in told.power_w
    assert told.power_w["package-0"].median == 2.0


@pytest.mark.parametrize(
    ("provider", "rail"),
    [
        ("CPUExecutionProvider", "package-0"),
        ("CPU", "package-0"),
        ("cpu", "package-0"),
        ("CUDAExecutionProvider", "gpu0"),
        ("TensorrtExecutionProvider", "gpu0"),
        ("cuda", "gpu0"),
        ("NVIDIA GeForce RTX 4070", "gpu0"),
    ],
)
def test_the_rail_is_that_of_what_runs(desktop: Path, provider: str, rail: str) -> None:
    with Sampler(desktop, interval_s=60) as sampler:
        assert rail_for(sampler, provider) == rail


def test_a_board_s_rail_tells_all_and_a_bare_machine_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", RecordedNvml("gpu_jetson"))
    with Sampler(grow("agx_orin", tmp_path / "orin"), interval_s=60) as sampler:
        assert (rail_for(sampler, "CPU"), rail_for(sampler, "Orin")) == ("module", "module")
    with Sampler(grow("bare", tmp_path / "bare"), interval_s=60) as sampler:
        assert (rail_for(sampler, "CPU"), rail_for(sampler, "cuda")) == (None, None)

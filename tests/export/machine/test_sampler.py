"""Sensors of trees, read by the real thread; powers are products worked out by hand from the numbers in the trees."""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from export.machine.identity import identify
from export.machine.sampler import MOST_SHARE, Sampler, sources_of
from export.machine.sources import Sensor, Sources
from tests.export.machine.stand_in import HandClock, RecordedNvml, grow, put, unprivileged


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> RecordedNvml:
    recorded = RecordedNvml("gpu_jetson")
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    return recorded


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordedNvml:
    recorded = RecordedNvml("gpu_desktop")
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    grow("desktop", tmp_path)
    return recorded


def wait_for(sampler: Sampler, readings: int) -> None:
    while sampler.conditions().samples < readings:
        time.sleep(0.005)


def test_rails_of_an_agx_orin(tmp_path: Path) -> None:
    with Sampler(grow("agx_orin", tmp_path), interval_s=0.01) as sampler:
        wait_for(sampler, 3)
    found = sampler.conditions()
    # mV times mA: 19720 * 250, 19720 * 50, 4960 * 800 and 4960 * 100 in microwatts; the module takes the first three.
    expected = {
        "VDD_GPU_SOC": 4.93,
        "VDD_CPU_CV": 0.986,
        "VIN_SYS_5V0": 3.968,
        "VDDQ_VDD2_1V8AO": 0.496,
        "module": 9.884,
    }
    assert {rail: told.median for rail, told in found.power_w.items()} == pytest.approx(expected)
    assert sampler.main_rail == sampler.rail_of("cpu") == sampler.rail_of("gpu") == "module"


def test_temperature_and_clocks_of_an_agx_orin(tmp_path: Path) -> None:
    with Sampler(grow("agx_orin", tmp_path), interval_s=0.01) as sampler:
        pass
    found = sampler.conditions()
    assert {zone: told.start for zone, told in found.temperature_c.items()} == {
        "cpu-thermal": 48.125,
        "gpu-thermal": 44.5,
        "tj-thermal": 48.125,
    }
    assert {clock: told.start for clock, told in found.clocks_mhz.items()} == pytest.approx(
        {"cpu0-3": 1190.4, "cpu4-7": 729.6, "gpu": 306.0}
    )
    assert found.unavailable["temperature_c.cv0-thermal"].endswith("temp tells no number now")
    assert found.unavailable["clocks_mhz.emc"].endswith("rate does not exist")
    assert found.unavailable["power_w.gpu0"] == "NVML: Not Supported"


def test_energy_of_constant_power(tmp_path: Path) -> None:
    with Sampler(grow("agx_orin", tmp_path), interval_s=0.01) as sampler:
        start = time.perf_counter()
        time.sleep(0.05)
        end = time.perf_counter()
    energy = sampler.energy_mj(start, end)
    assert energy is not None
    assert energy["VDD_GPU_SOC"] == pytest.approx(4930.0 * (end - start))  # 4.93 W are 4930 mJ in a second
    assert energy["module"] == pytest.approx(9884.0 * (end - start))
    assert sampler.energy_mj(start - 10, end) is None  # nothing was read then
    assert sampler.energy_mj(start, end + 10) is None


def test_least_median_and_greatest(tmp_path: Path) -> None:
    grow("orin_nano", tmp_path)
    with Sampler(tmp_path, interval_s=0.01) as sampler:
        put(tmp_path, "sys/class/hwmon/hwmon1/curr1_input", 4000)
        put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 60000)
        wait_for(sampler, 5)
        put(tmp_path, "sys/class/hwmon/hwmon1/curr1_input", 1000)
        put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 50100)
    found = sampler.conditions()
    told = found.power_w["VDD_IN"]
    assert (told.start, told.min, told.max) == pytest.approx((10.0, 5.0, 20.0))  # 5 V times 2, 1 and 4 A
    zone = found.temperature_c["tj-thermal"]
    assert (zone.start, zone.min, zone.max) == pytest.approx((52.3, 50.1, 60.0))
    assert sampler.main_rail == "VDD_IN"
    assert found.unavailable["power_w.VDD_SOC"].endswith("in3_enable is 0: the channel is switched off")


def test_idle_power(tmp_path: Path) -> None:
    clock = HandClock()
    root = grow("orin_nano", tmp_path)
    with Sampler(root, interval_s=60, idle_s=0.5, clock=clock, pause=clock.advance) as sampler:
        put(tmp_path, "sys/class/hwmon/hwmon1/curr1_input", 4000)
    assert sampler.idle_power_w == pytest.approx({"VDD_IN": 10.0, "VDD_CPU_GPU_CV": 2.5})
    with Sampler(tmp_path) as again:
        pass
    assert again.idle_power_w is None


def test_an_orin_that_is_not_throttled(tmp_path: Path) -> None:
    with Sampler(grow("agx_orin", tmp_path), interval_s=0.01) as sampler:
        pass
    found = sampler.conditions()
    assert (found.throttled, found.throttling, found.throttle_reasons) == (
        False,
        {"board": False},
        [],
    )  # the fan is none


def test_over_current_events_and_cooling_throttle(tmp_path: Path) -> None:
    grow("agx_orin", tmp_path)
    with Sampler(tmp_path, interval_s=0.01) as sampler:
        put(tmp_path, "sys/class/hwmon/hwmon1/oc3_event_cnt", 8)
        put(tmp_path, "sys/class/thermal/cooling_device2/cur_state", 3)
        wait_for(sampler, 3)
        put(tmp_path, "sys/class/thermal/cooling_device2/cur_state", 0)
    found = sampler.conditions()
    assert found.throttled is True
    assert found.throttle_reasons == ["board: cooling by thermal-devfreq-0", "board: over-current event oc3"]


def test_a_desktop_gpu(desktop: RecordedNvml, tmp_path: Path) -> None:
    with Sampler(tmp_path, interval_s=0.01) as sampler:
        wait_for(sampler, 4)
    found = sampler.conditions()
    assert found.temperature_c["gpu0"].median == 57.0
    assert (found.clocks_mhz["gpu0"].median, found.clocks_mhz["gpu0 memory"].median) == (2610.0, 10251.0)
    assert found.power_w["gpu0"].median == 142.5  # the power now, and not the mean of the last second
    assert found.throttled is True
    assert found.throttling == {"cpu": False, "gpu": True}
    assert found.throttle_reasons == ["gpu: power cap"]
    assert (sampler.main_rail, sampler.rail_of("cpu")) == ("gpu0", "package-0")
    assert desktop.open == 0


def test_a_gpu_without_power_now_tells_the_mean(desktop: RecordedNvml, tmp_path: Path) -> None:
    del desktop.answers["power_instant_mw"]
    with Sampler(tmp_path) as sampler:
        pass
    assert sampler.conditions().power_w["gpu0"].median == 120.0


def test_the_gpu_s_own_counter_gives_its_energy(desktop: RecordedNvml, tmp_path: Path) -> None:
    # 80 W, unlike the power that is told
    desktop.answers["nvmlDeviceGetTotalEnergyConsumption"] = {"per_second": 80000}
    desktop.clock = clock = HandClock()
    with Sampler(tmp_path, interval_s=60, clock=clock) as sampler:
        clock.advance(0.25)
        sampler.read_now()
        energy = sampler.energy_mj(100.0, 100.25)
    assert energy is not None
    assert energy["gpu0"] == 20000.0


def test_slow_sensors_cover_what_their_pauses_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()

    def slow() -> float:
        clock.advance(30.0)
        return 7.0

    def sources(_: Path) -> Sources:
        return Sources(sensors=[Sensor("rail", "power_w", slow, part="board")], main={"board": "rail"})

    monkeypatch.setattr("export.machine.sampler.sources_of", sources)
    with Sampler(tmp_path, interval_s=10, clock=clock) as sampler:  # the thread waits for minutes of real time
        assert sampler.gap_s == 600.0  # 30 s are a twentieth of it
        start = clock()
        clock.advance(270.0)
        end = clock()
        clock.advance(20.0)  # two intervals, and no reading yet
        assert sampler.energy_mj(start, end) == {"rail": pytest.approx(7000.0 * 270)}
        start = clock()
        clock.advance(5000.0)
        end = clock()
        assert sampler.energy_mj(start, end) is None
        sampler.read_now()
        assert sampler.energy_mj(start, end) == {"rail": pytest.approx(7000.0 * 5000)}


def test_the_chosen_gpu_has_the_main_rail(
    desktop: RecordedNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop.answers["nvmlDeviceGetCount"] = 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with Sampler(tmp_path) as sampler:
        pass
    assert sampler.main_rail == "gpu1"


def test_temperature_clocks_and_energy_of_a_processor(desktop: RecordedNvml, tmp_path: Path) -> None:
    clock = HandClock()
    with Sampler(tmp_path, interval_s=60, clock=clock) as sampler:  # read at the beginning and at the end
        clock.advance(4.0)
        put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", 3000000)
        put(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", 100000)
        put(tmp_path, "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj", 1000000)
    found = sampler.conditions()
    assert set(found.temperature_c) == {"coretemp Package id 0", "gpu0"}  # neither the cores nor the disk
    assert found.temperature_c["coretemp Package id 0"].median == 61.0
    assert (found.clocks_mhz["cpu0"].median, found.clocks_mhz["cpu4"].median) == (4900.0, 3600.0)
    energy = sampler.energy_mj(100.0, 104.0)
    assert energy is not None
    assert energy["package-0"] == pytest.approx(2000.0)  # from 1 J to 3 J
    # The other began again at 262143.33 J, as its file said on entering: it went up by that much less 0.5 J.
    assert energy["package-0 core"] == pytest.approx(262143328.85 - 500.0)
    assert found.power_w["package-0"].median == pytest.approx(0.5)  # 2 J in 4 s


def test_counters_of_heat_are_told(desktop: RecordedNvml, tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        put(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 12)
    assert "cpu: heat (package)" in sampler.conditions().throttle_reasons


def test_a_processor_that_tells_nothing_of_throttling(tmp_path: Path) -> None:
    with Sampler(grow("ryzen", tmp_path), interval_s=0.01) as sampler:
        pass
    found = sampler.conditions()
    assert (found.throttled, found.throttling) == (None, {})
    assert found.unavailable["throttling.cpu"] == "the processor has no thermal_throttle counters here"
    assert found.temperature_c["k10temp Tctl"].median == 55.25
    put(tmp_path, "sys/class/thermal/cooling_device0/cur_state", 2)
    with Sampler(tmp_path, interval_s=0.01) as slowed:
        pass
    assert slowed.conditions().throttle_reasons == ["cpu: cooling by Processor"]


def test_two_packages_are_one_rail(tmp_path: Path) -> None:
    for number in (0, 1):
        put(tmp_path, f"sys/class/powercap/intel-rapl:{number}/name", f"package-{number}")
        put(tmp_path, f"sys/class/powercap/intel-rapl:{number}/energy_uj", 0)
    clock = HandClock()
    with Sampler(tmp_path, interval_s=60, clock=clock) as sampler:
        clock.advance(0.5)
        put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", 1000000)
        put(tmp_path, "sys/class/powercap/intel-rapl:1/energy_uj", 500000)
    energy = sampler.energy_mj(100.0, 100.5)
    assert energy == pytest.approx({"package-0": 1000.0, "package-1": 500.0, "all packages": 1500.0})
    assert sampler.main_rail == "all packages"
    assert sampler.conditions().power_w["all packages"].median == pytest.approx(3.0)


def test_zones_of_one_type_are_kept_apart(tmp_path: Path) -> None:
    for number, millidegrees in enumerate((40000, 50000)):
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", "x86_pkg_temp")
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", millidegrees)
    with Sampler(tmp_path) as sampler:
        pass
    found = sampler.conditions().temperature_c
    assert {name: told.start for name, told in found.items()} == {"x86_pkg_temp": 40.0, "x86_pkg_temp 2": 50.0}


def test_of_many_clocks_the_fastest_is_told(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/status", "Cpus_allowed_list:\t0-31")
    for cpu in range(32):
        put(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{cpu}/affected_cpus", cpu)
        put(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{cpu}/scaling_cur_freq", 2000000 + 1000 * cpu)
    with Sampler(tmp_path) as sampler:
        pass
    assert {name: told.max for name, told in sampler.conditions().clocks_mhz.items()} == {"fastest cpu": 2031.0}


def test_nothing_to_read_is_told_with_reasons(tmp_path: Path) -> None:
    with Sampler(grow("bare", tmp_path), interval_s=0.01) as sampler:
        start = time.perf_counter()
    found = sampler.conditions()
    assert (found.temperature_c, found.clocks_mhz, found.power_w, found.throttled) == ({}, {}, {}, None)
    assert {"temperature_c.cpu", "clocks_mhz.cpu", "power_w.cpu", "throttling.cpu", "gpu"} <= set(found.unavailable)
    assert sampler.energy_mj(start, start) is None
    assert (sampler.main_rail, sampler.rail_of("cpu")) == (None, None)


def test_counters_that_only_root_may_read(readable_path: Path) -> None:
    grow("desktop", readable_path)
    (readable_path / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    (readable_path / "sys/class/powercap/intel-rapl:0:0/energy_uj").chmod(0)
    with unprivileged(), Sampler(readable_path) as sampler:
        pass
    found = sampler.conditions()
    assert found.power_w == {}
    assert found.unavailable["power_w.package-0"].endswith("energy_uj may not be read by this user")


def test_a_sensor_that_falls_silent_is_left_out_of_its_readings(tmp_path: Path) -> None:
    grow("orin_nano", tmp_path)
    with Sampler(tmp_path, interval_s=0.01) as sampler:
        put(tmp_path, "sys/class/hwmon/hwmon1/curr1_input", "")
        wait_for(sampler, 4)
    told = sampler.conditions().power_w["VDD_IN"]
    assert (told.min, told.max) == pytest.approx((10.0, 10.0))


@pytest.mark.parametrize("tree", ["agx_orin", "orin_nano", "desktop"])
@pytest.mark.parametrize("damage", ["garbage", "missing", "folder", "huge"])
def test_no_file_is_relied_upon(tree: str, damage: str, tmp_path: Path) -> None:
    root = grow(tree, tmp_path)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        path.unlink()
        if damage == "garbage":
            path.write_bytes(b"\xff\xfe\x00 -- : = \n R (release)")
        elif damage == "folder":
            path.mkdir()
        elif damage == "huge":
            path.write_text("9" * 400, encoding="utf-8")
        assert identify(root).title
        with Sampler(root, interval_s=60) as sampler:
            pass
        assert sampler.conditions().samples == 2
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content)


def test_slow_readings_are_followed_by_longer_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[float, float]] = []

    def slow() -> float:
        start = time.perf_counter()
        time.sleep(0.01)
        calls.append((start, time.perf_counter()))
        return 1.0

    def sources(_: Path) -> Sources:
        return Sources(sensors=[Sensor("slow", "power_w", slow)])

    monkeypatch.setattr("export.machine.sampler.sources_of", sources)
    with Sampler(tmp_path, interval_s=0.001) as sampler:
        wait_for(sampler, 4)
        found = sampler.conditions()
    assert found.reading_ms is not None
    assert found.reading_ms >= 10.0
    for (start, end), (following, _) in itertools.pairwise(calls[:4]):
        # Whatever else the machine does only adds to the pause.
        assert (end - start) / (following - start) <= MOST_SHARE * 1.01


def test_the_thread_ends_with_the_block(tmp_path: Path) -> None:
    def fail() -> None:
        with Sampler(tmp_path, interval_s=0.01):
            raise RuntimeError("what is measured failed")

    before = threading.active_count()
    with pytest.raises(RuntimeError):
        fail()
    assert threading.active_count() == before


def test_times_that_are_none_are_refused(tmp_path: Path) -> None:
    for interval_s in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"interval_s {interval_s}"):
            Sampler(tmp_path, interval_s=interval_s)


def test_files_are_closed(tmp_path: Path) -> None:
    grow("agx_orin", tmp_path)
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files")
    before = len(list(descriptors.iterdir()))
    with Sampler(tmp_path):
        assert len(list(descriptors.iterdir())) > before
    assert len(list(descriptors.iterdir())) == before
    sources = sources_of(tmp_path)
    sources.close()
    assert len(list(descriptors.iterdir())) == before

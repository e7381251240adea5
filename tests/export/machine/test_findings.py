"""What `bmtas doctor` finds on machines that are made for it, and the commands that mend it, word for word."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.doctor.finding import Finding
from export.doctor.hardware import hardware_findings
from export.doctor.space import GIB, disk_finding, memory_findings, shared_finding, space_findings
from export.machine.identity import identify
from export.machine.model import Cpu, Gpu
from tests.export.machine.stand_in import RecordedNvml, grow, put, unprivileged


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Return a function that gives the findings of a tree by name, after changes to its files."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trees = iter(range(100))

    def look(tree: str, changes: dict[str, object] | None = None) -> dict[str, Finding]:
        recorded = "gpu_desktop" if tree == "desktop" else "gpu_jetson"
        monkeypatch.setitem(sys.modules, "pynvml", RecordedNvml(recorded))
        root = grow(tree, tmp_path / str(next(trees)))
        for path, content in (changes or {}).items():
            put(root, path, content)
        return {finding.name: finding for finding in hardware_findings(root, identify(root))}

    return look


def test_power_modes_of_a_jetson(on: Callable[..., dict[str, Finding]]) -> None:
    found = on("agx_orin")
    mode = found["power mode"]
    assert (mode.level, mode.found, mode.fix) == ("warning", "MODE_30W; MAXN is the fastest", "sudo nvpmodel -m 0")
    assert (found["clocks"].level, found["clocks"].fix) == ("note", "sudo jetson_clocks")
    assert found["JetPack"].found == "L4T 36.4.3, JetPack 6.2, concluded from L4T"
    assert found["CPU clock limit"].found == "held at 1728 MHz of 2201.6"
    assert found["power and energy"].found == "VDDQ_VDD2_1V8AO, VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0"
    assert found["sensors"].found == "told: temperature, clocks, throttling of board"
    nano = on("orin_nano")
    assert (nano["power mode"].level, nano["power mode"].found) == ("ok", "MAXN_SUPER")
    assert "clocks" not in nano  # jetson_clocks holds them


def test_governors_and_limits(on: Callable[..., dict[str, Finding]]) -> None:
    at = "sys/devices/system/cpu/cpufreq/policy0"
    fix = "sudo cpupower frequency-set -g performance"
    stuck = on("desktop", {f"{at}/scaling_driver": "acpi-cpufreq"})["CPU governor"]
    assert (stuck.level, stuck.found, stuck.fix) == (
        "warning",
        "performance, powersave: the clock stays at its lowest",
        fix,
    )
    moving = on("desktop", {f"{at}/scaling_driver": "intel_pstate"})["CPU governor"]
    assert (moving.level, moving.fix) == ("note", fix)
    fast = on("desktop", {f"{at}/scaling_governor": "performance"})
    assert (fast["CPU governor"].level, fast["CPU governor"].found) == ("ok", "performance")
    assert "CPU clock limit" not in fast
    held = on("desktop", {f"{at}/scaling_max_freq": 3000000})["CPU clock limit"]
    assert (held.level, held.found) == ("warning", "held at 4100 MHz of 5200")
    assert held.fix == "sudo cpupower frequency-set -u 5200MHz"


def test_a_gpu_below_its_power(on: Callable[..., dict[str, Finding]]) -> None:
    found = on("desktop")
    assert found["GPU 0"].found == (
        "NVIDIA GeForce RTX 4070, 12 GiB, driver 550.144.03, CUDA 12.4, compute capability 8.9"
    )
    power = found["GPU 0 power"]
    assert (power.level, power.found, power.fix) == (
        "warning",
        "limited to 180 W of 200 W",
        "sudo nvidia-smi -i 0 -pl 200",
    )
    assert "GPU 0 mode" not in found


def test_settings_of_a_gpu_that_hold_it(tmp_path: Path) -> None:
    gpu = Gpu(
        index=1, compute_mode="prohibited", persistence=False, application_graphics_mhz=900, max_graphics_mhz=1800
    )
    machine = identify(tmp_path).model_copy(update={"gpus": (gpu,)})
    found = {finding.name: finding for finding in hardware_findings(tmp_path, machine)}
    assert (found["GPU 1 mode"].level, found["GPU 1 mode"].fix) == ("fault", "sudo nvidia-smi -i 1 -c DEFAULT")
    assert (found["GPU 1 clock"].found, found["GPU 1 clock"].fix) == (
        "asked for 900 MHz of 1800",
        "sudo nvidia-smi -i 1 -rac",
    )
    assert (found["GPU 1 persistence"].level, found["GPU 1 persistence"].fix) == ("note", "sudo nvidia-smi -i 1 -pm 1")


CARD = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200"}


def test_gpus_that_cannot_be_reached(
    on: Callable[..., dict[str, Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = on("ryzen", CARD)["GPU"]
    assert (alone.level, alone.found, alone.fix) == (
        "warning",
        "an NVIDIA card is there, but no driver runs for it",
        "sudo ubuntu-drivers install",
    )
    docker = on("bare", CARD)["GPU"]
    assert (docker.level, docker.fix) == ("warning", "docker run --gpus all ...")
    podman = on("bare", {**CARD, "run/.containerenv": ""})["GPU"]
    assert podman.fix == "podman run --device nvidia.com/gpu=all ..."
    assert "GPU" not in on("bare")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it then fails
    root = grow("desktop", tmp_path / "without")
    unknown = {finding.name: finding for finding in hardware_findings(root, identify(root))}["GPU"]
    assert (unknown.level, unknown.fix) == ("note", "pip install nvidia-ml-py")


def test_fewer_cpus_than_it_seems(on: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch) -> None:
    quota = {"proc/self/status": "Cpus_allowed_list:\t0-3", "sys/fs/cgroup/cpu.max": "250000 100000"}
    found = on("bare", quota)["CPU quota"]
    assert (found.level, found.found) == (
        "warning",
        "the control group grants the time of 2.5 CPUs and shows 4: as many threads wait for each other",
    )
    assert found.fix == "bmtas bench --threads 2, or start the container with a greater --cpus"
    assert "CPU quota" not in on("bare", {**quota, "sys/fs/cgroup/cpu.max": "max 100000"})
    assert on("desktop", {"proc/self/status": "Cpus_allowed_list:\t1"})["CPU set"].found == "1 of 2 CPUs may be used"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert on("bare")["OMP_NUM_THREADS"].fix == "unset OMP_NUM_THREADS"


@pytest.mark.parametrize(
    ("architecture", "features", "level", "word"),
    [
        ("x86_64", (), "warning", "no AVX2"),
        ("x86_64", ("avx", "avx2"), "note", "no VNNI"),
        ("x86_64", ("avx", "avx2", "avx512f", "avx512_vnni"), "ok", "avx512_vnni"),
        ("aarch64", ("asimd",), "note", "no dot products"),
        ("aarch64", ("asimd", "asimddp"), "ok", "asimddp"),
    ],
)
def test_instructions(tmp_path: Path, architecture: str, features: tuple[str, ...], level: str, word: str) -> None:
    cpu = Cpu(architecture=architecture, usable=1, features=features)
    machine = identify(tmp_path).model_copy(update={"cpu": cpu})
    found = {finding.name: finding for finding in hardware_findings(tmp_path, machine)}["CPU instructions"]
    assert found.level == level
    assert word in found.found


def test_counters_of_energy_that_only_root_may_read(readable_path: Path) -> None:
    grow("ryzen", readable_path)
    put(readable_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    put(readable_path, "sys/class/powercap/intel-rapl:0/energy_uj", 1)
    (readable_path / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    with unprivileged():
        found = {finding.name: finding for finding in hardware_findings(readable_path, identify(readable_path))}
    assert found["power and energy"].level == "note"
    assert found["power and energy"].fix == "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


SWAP = "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"


@pytest.mark.parametrize(
    ("available", "swap", "level", "fix"),
    [
        (8 * GIB, 0, "ok", None),
        (3 * GIB, 0, "note", SWAP),
        (3 * GIB, 4 * GIB, "ok", None),
        (GIB // 2, 0, "warning", SWAP),
        (GIB // 4, 4 * GIB, "warning", None),
    ],
)
def test_memory(available: int, swap: int, level: str, fix: str | None) -> None:
    text = f"MemTotal: 8000000 kB\nMemAvailable: {available // 1024} kB\nSwapTotal: {swap // 1024} kB\nSwapFree: {swap // 1024} kB"
    (found,) = memory_findings(text)
    assert (found.level, found.fix) == (level, fix)
    assert found.found.startswith(f"{available / GIB:.1f} GiB free")


def test_disk_and_shared_memory(tmp_path: Path) -> None:
    found = [
        disk_finding("runs folder", tmp_path, free, "bmtas COMMAND --runs FOLDER") for free in (10**7, GIB, 3 * GIB)
    ]
    assert [finding.level for finding in found] == ["fault", "warning", "ok"]
    assert found[0].fix == "df -h / shows what is full; bmtas COMMAND --runs FOLDER takes another disk"
    assert shared_finding(64 * 2**20, "docker").fix == "docker run --shm-size 2g ..."
    assert shared_finding(64 * 2**20, "none").fix == "sudo mount -o remount,size=2G /dev/shm"
    assert shared_finding(GIB, "docker").level == "ok"


def test_a_folder_that_cannot_be_written(readable_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMTAS_CACHE", str(readable_path / "file/cache"))
    put(readable_path, "file", "")
    locked = readable_path / "locked"
    locked.mkdir(mode=0o555)
    with unprivileged():
        found = {finding.name: finding for finding in space_findings(readable_path, locked / "runs", "none")}
    runs, cache = found["runs folder"], found["cache folder"]
    assert (runs.level, runs.found) == ("fault", f"{locked} cannot be written by this user")
    assert runs.fix == "bmtas COMMAND --runs FOLDER"
    assert (cache.level, cache.found) == ("fault", f"{readable_path / 'file'} is no folder")
    assert cache.fix == "export BMTAS_CACHE=FOLDER"

"""What a machine is, read from trees as boards have them; the numbers are those in the trees."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.machine.identity import Identity, device_key, identify, unlike
from export.machine.jetson import fastest_mode
from export.machine.model import Cpu, Gpu
from export.machine.nvml import _THROTTLING
from tests.export.machine.stand_in import RecordedNvml, grow, put, unprivileged


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> RecordedNvml:
    """A Jetson's NVML, which starts and answers next to nothing."""
    recorded = RecordedNvml("gpu_jetson")
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    return recorded


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Identity:
    recorded = RecordedNvml("gpu_desktop")
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    found = identify(grow("desktop", tmp_path))
    assert recorded.open == 0  # closed again
    return found


def test_an_agx_orin(tmp_path: Path, nvml: RecordedNvml) -> None:
    found = identify(grow("agx_orin", tmp_path))
    assert found.title == "Jetson AGX Orin, MODE_30W"
    assert found.jetson is not None
    assert found.jetson.model == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (found.jetson.l4t, found.jetson.jetpack, found.jetson.jetpack_derived) == ("36.4.3", "6.2", True)
    assert (found.jetson.power_mode_id, found.jetson.power_mode) == (2, "MODE_30W")
    assert found.jetson.power_modes == {0: "MAXN", 1: "MODE_15W", 2: "MODE_30W", 3: "MODE_50W"}
    assert found.jetson.clocks_fixed is False
    assert (found.jetson.gpu_min_mhz, found.jetson.gpu_max_mhz) == (306.0, 612.0)
    assert (found.jetson.gpu_hardware_max_mhz, found.jetson.emc_max_mhz) == (1300.5, 3199.0)
    assert found.cpu.model == "Arm Cortex-A78AE"
    assert (found.cpu.usable, found.cpu.governor) == (8, "schedutil")
    assert (found.cpu.limit_min_mhz, found.cpu.limit_max_mhz) == (729.6, 1728.0)
    assert (found.cpu.hardware_min_mhz, found.cpu.hardware_max_mhz) == (115.2, 2201.6)
    assert found.cpu.features == ("asimd", "asimdhp", "asimddp")
    assert found.system.os == "Ubuntu 22.04.5 LTS"
    assert found.memory_mib == 64349860 // 1024
    assert nvml.open == 0


def test_nvml_on_a_jetson_answers_nothing_and_that_is_told(tmp_path: Path, nvml: RecordedNvml) -> None:
    found = identify(grow("agx_orin", tmp_path))
    (gpu,) = found.gpus
    assert (gpu.name, gpu.driver, gpu.cuda) == ("Orin (nvgpu)", "540.4.0", "12.6")
    assert (gpu.memory_mib, gpu.power_limit_w, gpu.compute_capability) == (None, None, None)
    assert found.unavailable["gpu0.memory_mib"] == "NVML: Not Supported"
    assert found.unavailable["gpu0.power_limit_w"] == "NVML: Not Supported"


def test_an_orin_nano(tmp_path: Path, nvml: RecordedNvml) -> None:
    found = identify(grow("orin_nano", tmp_path))
    assert found.title == "Jetson Orin Nano Super, MAXN_SUPER"
    assert found.jetson is not None
    assert (found.jetson.jetpack, found.jetson.jetpack_derived) == ("6.2.1", False)  # from the package, not from 36.4.7
    assert found.jetson.clocks_fixed is True
    assert found.jetson.emc_max_mhz is None
    assert "jetson.emc_max_mhz" in found.unavailable
    assert found.cpu.model is None
    assert "cpuinfo does not exist" in found.unavailable["cpu.model"]


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R36 (release), REVISION: 4.0", "6.1"),
        ("R36 (release), REVISION: 3.0", "6.0"),
        ("R36 (release), REVISION: 4.9", "6.x"),
        ("R35 (release), REVISION: 4.1", "5.1.2"),
        ("R99 (release), REVISION: 1.0", None),
    ],
)
def test_jetpack_is_concluded_where_no_package_says_it(
    tmp_path: Path, nvml: RecordedNvml, release: str, jetpack: str | None
) -> None:
    put(grow("agx_orin", tmp_path), "etc/nv_tegra_release", f"# {release}, GCID: 1, BOARD: generic")
    found = identify(tmp_path).jetson
    assert found is not None
    assert (found.jetpack, found.jetpack_derived) == (jetpack, True)


def test_the_fastest_mode_is_found_by_its_name() -> None:
    assert fastest_mode({0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}) == 2
    assert fastest_mode({0: "MAXN", 1: "MODE_15W", 3: "MODE_50W"}) == 0
    assert fastest_mode({0: "MODE_7W", 3: "MODE_15W_6CORE", 1: "MODE_15W"}) in (1, 3)
    assert fastest_mode({0: "QUIET"}) is None
    assert fastest_mode({}) is None


def test_a_desktop(desktop: Identity) -> None:
    assert desktop.title == "NVIDIA GeForce RTX 4070 + 13th Gen Intel(R) Core(TM) i7-13700, 3 CPUs"
    (gpu,) = desktop.gpus
    assert (gpu.compute_capability, gpu.memory_mib) == ("8.9", 12282)  # 12878610432 bytes
    assert (gpu.driver, gpu.cuda) == ("550.144.03", "12.4")
    assert (gpu.power_limit_w, gpu.default_power_limit_w) == (180.0, 200.0)
    assert (gpu.persistence, gpu.compute_mode, gpu.mig) == (True, "default", None)
    assert (gpu.max_graphics_mhz, gpu.max_memory_mhz, gpu.application_graphics_mhz) == (3105, 10501, None)
    assert (desktop.cpu.usable, desktop.cpu.governor, desktop.cpu.boost) == (3, "performance, powersave", True)
    assert (desktop.cpu.limit_min_mhz, desktop.cpu.limit_max_mhz) == (400.0, 5200.0)
    assert desktop.cpu.features == ("avx", "avx2", "avx_vnni")
    assert desktop.jetson is None


def test_a_bare_container(tmp_path: Path) -> None:
    found = identify(grow("bare", tmp_path))
    assert (found.container, found.cpu.quota_cpus) == ("docker", 1.5)
    assert (found.cpu.model, found.memory_mib, found.gpus, found.jetson) == (None, None, (), None)
    assert {"cpu.model", "cpu.clocks", "gpu", "memory_mib"} <= set(found.unavailable)
    assert Identity.model_validate_json(found.model_dump_json()) == found


def test_containers_are_told_apart(tmp_path: Path) -> None:
    assert identify(tmp_path).container == "none"
    put(tmp_path, "proc/1/cgroup", "0::/lxc.payload.box")
    assert identify(tmp_path).container == "other"
    put(tmp_path, "run/.containerenv", "engine=podman")
    assert identify(tmp_path).container == "podman"
    put(tmp_path, "proc/1/cgroup", "0::/kubepods.slice/kubepods-pod1.slice")
    assert identify(tmp_path).container == "kubernetes"


def test_the_older_control_groups_bound_the_cpus_too(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/mine\n0::/")
    put(tmp_path, "sys/fs/cgroup/cpu/mine/cpu.cfs_quota_us", 250000)
    put(tmp_path, "sys/fs/cgroup/cpu/mine/cpu.cfs_period_us", 100000)
    assert identify(tmp_path).cpu.quota_cpus == 2.5
    put(tmp_path, "sys/fs/cgroup/cpu/mine/cpu.cfs_quota_us", -1)
    assert identify(tmp_path).cpu.quota_cpus is None


def test_a_card_without_a_driver_is_told(tmp_path: Path) -> None:
    put(tmp_path, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de")
    put(tmp_path, "sys/bus/pci/devices/0000:01:00.0/class", "0x030000")
    assert identify(tmp_path).unavailable["gpu"] == "an NVIDIA card is there, but no driver runs for it"


def test_without_the_library_the_gpu_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it then fails
    found = identify(grow("desktop", tmp_path))
    assert found.gpus == ()
    assert "pynvml" in found.unavailable["gpu"]
    # No extra of bmtas, which would bring PyTorch.
    assert found.unavailable["gpu"].endswith("install it with: pip install nvidia-ml-py")


def test_the_library_has_what_is_asked_of_it() -> None:
    library = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    recorded = RecordedNvml("gpu_desktop")
    asked = [name for name in recorded.answers if name.startswith("nvml")]
    asked += ["nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetFieldValues"]
    assert [name for name in asked if not callable(getattr(library, name, None))] == []
    constants = ("NVML_CLOCK_GRAPHICS", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU", "NVML_FI_DEV_POWER_INSTANT")
    assert [getattr(library, name) for name in constants] == [getattr(recorded, name) for name in constants]
    bits = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert [getattr(library, f"nvmlClocksEventReason{bit}") for bit in bits] == list(_THROTTLING)


def test_a_machine_is_like_itself(desktop: Identity) -> None:
    assert unlike(desktop, desktop) == []


def test_another_mode_governor_and_clock_are_unlike(tmp_path: Path, nvml: RecordedNvml) -> None:
    before = identify(grow("agx_orin", tmp_path))
    put(tmp_path, "var/lib/nvpmodel/status", "pmode:0000")
    put(tmp_path, "sys/class/devfreq/17000000.gpu/max_freq", 1300500000)
    put(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance")
    put(tmp_path, "proc/self/status", "Cpus_allowed_list:\t0-3")
    assert unlike(before, identify(tmp_path)) == [
        "the number of usable CPUs differs: 8 and 4",
        "the CPU governor differs: schedutil and performance",
        "the power mode differs: MODE_30W and MAXN",
        "the highest GPU clock allowed in MHz differs: 612 and 1300.5",
    ]


def test_another_gpu_driver_and_runtime_are_unlike(desktop: Identity) -> None:
    (gpu,) = desktop.gpus
    other = gpu.model_copy(update={"driver": "560.35.03", "power_limit_w": 200.0, "uuid": "GPU-0"})
    changed = desktop.model_copy(update={"gpus": (other,), "runtimes": {"tensorrt": "10.3.0"}})
    assert unlike(desktop.model_copy(update={"runtimes": {"tensorrt": "10.7.0"}}), changed) == [
        "the NVIDIA driver differs: 550.144.03 and 560.35.03",
        "the GPU's power limit in W differs: 180 and 200",
        "tensorrt differs: 10.7.0 and 10.3.0",
    ]
    assert "the number of GPUs differs: 1 and 0" in unlike(desktop, desktop.model_copy(update={"gpus": ()}))


def test_a_desktop_is_no_jetson(desktop: Identity, tmp_path: Path, nvml: RecordedNvml) -> None:
    found = unlike(desktop, identify(grow("agx_orin", tmp_path / "orin")))
    assert "only one is a Jetson: NVIDIA Jetson AGX Orin Developer Kit" in found
    assert "the processor differs: 13th Gen Intel(R) Core(TM) i7-13700 and Arm Cortex-A78AE" in found


def test_what_may_not_be_read_is_told(readable_path: Path, nvml: RecordedNvml) -> None:
    grow("agx_orin", readable_path)
    (readable_path / "var/lib/nvpmodel/status").chmod(0)
    with unprivileged():
        found = identify(readable_path)
    assert found.jetson is not None
    assert (found.jetson.power_mode, found.title) == (None, "Jetson AGX Orin")
    assert found.unavailable["jetson.power_mode"].endswith("status may not be read by this user")


def with_runtimes(identity: Identity, **versions: str) -> Identity:
    return identity.model_copy(update={"runtimes": versions})


def test_only_the_runtime_that_measured_counts(desktop: Identity) -> None:
    before = with_runtimes(desktop, onnxruntime="1.20.0", tensorrt="10.3.0")
    beside = with_runtimes(desktop, onnxruntime="1.20.0", openvino="2025.1.0")
    newer = with_runtimes(desktop, onnxruntime="1.21.0", tensorrt="10.7.0")
    assert unlike(before, beside) == []  # of what both have
    assert unlike(before, beside, "onnxruntime 1.20.0") == []
    assert unlike(before, newer, "onnxruntime") == ["onnxruntime differs: 1.20.0 and 1.21.0"]
    assert unlike(before, newer, "openvino") == []
    assert unlike(before, newer) == unlike(before, newer, {"tensorrt 10.3.0", "onnxruntime 1.20.0"})
    assert unlike(before, newer) == [
        "onnxruntime differs: 1.20.0 and 1.21.0",
        "tensorrt differs: 10.3.0 and 10.7.0",
    ]
    assert unlike(before, beside, ["openvino"]) == ["openvino differs: unknown and 2025.1.0"]


def changes(identity: Identity) -> Iterator[Identity]:
    """The machine again and again, each time with another value in one place."""
    for part in (identity, identity.cpu, *identity.gpus, identity.jetson):
        for name, value in part or ():
            if name != "jetson" and (value is None or isinstance(value, (str, bool, int, float))):
                other = not value if isinstance(value, bool) else f"{value}?" if isinstance(value, str) else 4096
                changed = part.model_copy(update={name: other}) if part is not None else None
                if isinstance(changed, Identity):
                    yield changed
                else:
                    place = "cpu" if isinstance(changed, Cpu) else "gpus" if isinstance(changed, Gpu) else "jetson"
                    yield identity.model_copy(update={place: (changed,) if place == "gpus" else changed})


@pytest.mark.parametrize("tree", ["desktop", "agx_orin"])
def test_the_key_of_a_device_means_what_unlike_means(
    tree: str, desktop: Identity, tmp_path: Path, nvml: RecordedNvml
) -> None:
    machine = desktop if tree == "desktop" else identify(grow("agx_orin", tmp_path / "orin"))
    others = [
        *changes(machine),
        machine.model_copy(update={"gpus": ()}),
        machine.model_copy(update={"jetson": None}),
        with_runtimes(machine, openvino="1"),
        machine.model_copy(update={"cpu": machine.cpu.model_copy(update={"features": ("neon",)})}),
    ]
    alike = [other for other in others if not unlike(machine, other, ())]
    assert len(alike) > 5
    assert len(others) - len(alike) > 5
    for other in others:
        assert (device_key(machine) == device_key(other)) == (not unlike(machine, other, ()))


def test_what_a_newer_bmtas_wrote_beside_is_left_out(desktop: Identity) -> None:
    told = desktop.model_dump(mode="json")
    parts = {name: {**told[name], "unknown": 32} for name in ("cpu", "system")}
    newer = {**told, **parts, "npu": "one"}
    assert Identity.model_validate(newer) == desktop
    assert Identity.model_validate(newer).model_dump(mode="json") == told

"""What of the options is set on which version of TensorRT, and where the timings of which builds are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bmtas.errors import EnvironmentProblem, UsageError
from export.tensorrt import timing_cache
from export.tensorrt.cuda import Device
from export.tensorrt.options import EngineOptions, parse_mib, settings_for

ORIN = Device("Orin", (8, 7), "12.6", "12.6")
DEFAULT = EngineOptions()


@pytest.mark.parametrize(
    ("version", "creation"),
    [((10, 3, 0), ("STRONGLY_TYPED",)), ((10, 16, 1, 11), ("STRONGLY_TYPED",)), ((11, 4, 0), ())],
)
def test_the_default_is_strongly_typed_and_without_tf32(version: tuple[int, ...], creation: tuple[str, ...]) -> None:
    settings = settings_for(DEFAULT, version)
    assert (settings.creation_flags, settings.set_flags, settings.clear_flags) == (creation, (), ("TF32",))
    assert (settings.hardware, settings.workspace_bytes, settings.optimisation_level, settings.aux_streams) == (
        None,
    ) * 4


def test_what_is_asked_for_is_set() -> None:
    options = EngineOptions(512, 5, 0, "ampere+", version_compatible=True, tf32=True)
    settings = settings_for(options, (10, 3, 0), (8, 7))
    assert (settings.set_flags, settings.clear_flags) == (("VERSION_COMPATIBLE",), ())
    assert (settings.hardware, settings.workspace_bytes) == ("AMPERE_PLUS", 536870912)
    assert (settings.optimisation_level, settings.aux_streams) == (5, 0)


def test_the_same_compute_capability_needs_10_9() -> None:
    same = EngineOptions(hardware_compatibility="same")
    for version in ((10, 3, 0), (10, 7, 0, 23), (10, 8, 0, 43)):
        with pytest.raises(UsageError, match=r"needs TensorRT 10\.9 or later, this is 10\.[378]"):
            settings_for(same, version)
    for version in ((10, 9, 0), (11, 0, 0)):
        assert settings_for(same, version).hardware == "SAME_COMPUTE_CAPABILITY"


def test_versions_without_typed_networks_are_refused() -> None:
    with pytest.raises(EnvironmentProblem, match=r"8\.6\.2 is too old"):
        settings_for(DEFAULT, (8, 6, 2))


@pytest.mark.parametrize(
    ("options", "gpu", "match"),
    [
        (EngineOptions(hardware_compatibility="ampere+"), (7, 2), r"8\.0 or later, this GPU has 7\.2"),
        (EngineOptions(version_compatible=True), (6, 1), r"7\.0 or later, this GPU has 6\.1"),
    ],
)
def test_a_gpu_that_is_too_old_for_an_option_is_named(options: EngineOptions, gpu: tuple[int, int], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        settings_for(options, (10, 3, 0), gpu)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"workspace_mib": 0}, "at least 1 MiB"),
        ({"optimisation_level": 6}, r"0 \(fast build\) to 5"),
        ({"aux_streams": -1}, "or more"),
        ({"hardware_compatibility": "ampere"}, r"did you mean 'ampere\+'"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        EngineOptions(**wrong)


def test_options_come_back_from_json_and_foreign_ones_are_refused() -> None:
    options = EngineOptions(64, 2, 1, "ampere+", True, True, False)
    assert EngineOptions.from_json(options.to_json()) == options
    assert EngineOptions(timing_cache=Path("x")).to_json()["timing_cache"] is True
    for wrong in ({"worksapce_mib": 1}, {"workspace_mib": "64"}, {"aux_streams": True}, {"version_compatible": 1}):
        with pytest.raises(UsageError, match="engine option"):
            EngineOptions.from_json(wrong)


@pytest.mark.parametrize(("text", "mib"), [("512", 512), ("512MiB", 512), ("2GiB", 2048), ("1.5 gib", 1536)])
def test_sizes_are_read_in_mib(text: str, mib: int) -> None:
    assert parse_mib(text, "--workspace") == mib


@pytest.mark.parametrize("text", ["2GB", "two", "", "-1MiB", "0", "0.3MiB", "1.0001GiB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--workspace"):
        parse_mib(text, "--workspace")


def test_timings_are_kept_apart_by_all_that_they_depend_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path))
    files = [
        timing_cache.cache_file(DEFAULT, (10, 3, 0), ORIN),
        timing_cache.cache_file(DEFAULT, (10, 7, 0), ORIN),
        timing_cache.cache_file(DEFAULT, (10, 3, 0), Device("Orin", (8, 7), "12.2", "12.6")),
        timing_cache.cache_file(DEFAULT, (10, 3, 0), Device("Orin NX", (8, 7), "12.6", "12.6")),
        timing_cache.cache_file(DEFAULT, (10, 3, 0), Device("Orin", (8, 9), "12.6", "12.6")),
        timing_cache.cache_file(EngineOptions(hardware_compatibility="ampere+"), (10, 3, 0), ORIN),
        timing_cache.cache_file(EngineOptions(version_compatible=True), (10, 3, 0), ORIN),
        timing_cache.cache_file(EngineOptions(tf32=True), (10, 3, 0), ORIN),
    ]
    assert len(set(files)) == 8
    first = files[0]
    assert first is not None
    assert first.parent == tmp_path / "tensorrt"
    assert first.name.startswith("orin-sm87-trt10.3.0-")
    # What changes how long is searched, not what was timed, shares them.
    assert timing_cache.cache_file(EngineOptions(optimisation_level=1, workspace_mib=64), (10, 3, 0), ORIN) == first


def test_a_path_or_none_replaces_the_kept_file(tmp_path: Path) -> None:
    own = tmp_path / "own.timing"
    assert timing_cache.cache_file(EngineOptions(timing_cache=own), (10, 3, 0), ORIN) == own
    assert timing_cache.cache_file(EngineOptions(timing_cache=False), (10, 3, 0), ORIN) is None
    assert timing_cache.read(own) == b""
    timing_cache.write(own, b"timed")
    assert timing_cache.read(own) == b"timed"
    assert list(tmp_path.iterdir()) == [own]
    with pytest.raises(UsageError, match="timing cache"):
        timing_cache.read(tmp_path)

"""Measuring a kit: nothing twice, however it is stopped; nothing of two machines in one file; only what is not known well again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.errors import UsageError
from bmtas.interrupt import Interrupted
from bmtas.progress import Silent
from export.latency.kit import Kit, read_kit
from export.latency.measure import Effort, measure_kit, measured_path
from export.latency.setting import Setting
from export.latency.visits import Visits, visits_of
from export.machine.identity import identify

SETTING = Setting(threads=1)
ITEMS = 1 + 6 * 2 + 2 + 1 + 1 + 6  # stem, layers, heads, separate networks, the all-shared one, trees


def lines_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


@pytest.fixture(scope="module")
def measured(prepared: tuple[Path, Kit], tmp_path_factory: pytest.TempPathFactory) -> Visits:
    """The kit after one pass."""
    folder, kit = tmp_path_factory.mktemp("measured") / "kit", prepared[1]
    shutil.copytree(prepared[0], folder)
    path = measure_kit(folder, kit, SETTING, Silent(), Effort(least=1, most=1))
    assert path == measured_path(folder, SETTING) == folder / "measured-fp32-cpu-1thread.jsonl"
    return visits_of(path)


@pytest.fixture
def continued(kit_folder: Path, measured: Visits) -> Callable[..., list[dict[str, Any]]]:
    """Go on with a measurement in a folder of the test's own whose header or visits were changed; return all lines."""
    path = measured_path(kit_folder, SETTING)

    def go_on(
        header: dict[str, Any] | None = None, visits: list[Any] | None = None, **effort: Any
    ) -> list[dict[str, Any]]:
        lines = [{**measured.header.model_dump(mode="json"), **(header or {})}]
        lines += [v.model_dump(mode="json") for v in (measured.visits if visits is None else visits)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        measure_kit(kit_folder, read_kit(kit_folder), SETTING, Silent(), Effort(**effort))
        return lines_of(path)

    return go_on


class TestOnePass:
    def test_every_item_is_visited_once_beside_the_anchor(self, measured: Visits, prepared: tuple[Path, Kit]) -> None:
        assert sorted(visit.item for visit in measured.visits) == sorted(prepared[1].items())
        assert len(measured.visits) == ITEMS
        for visit in measured.visits:
            assert (visit.number, len(visit.anchor_ms), len(visit.latency_ms)) == (0, 4, 12)
            assert visit.energy_mj is visit.anchor_energy_mj is None
            assert visit.ratio == pytest.approx(np.median(visit.latency_ms) / np.median(visit.anchor_ms))

    def test_the_header_says_what_was_measured_and_how(self, measured: Visits, prepared: tuple[Path, Kit]) -> None:
        header = measured.header
        assert header.kit == hashlib.sha256((prepared[0] / "manifest.json").read_bytes()).hexdigest()
        assert (header.setting, header.provider, header.rail) == ("fp32-cpu-1thread", "CPUExecutionProvider", None)
        assert header.runtime == f"onnxruntime {header.device['runtimes']['onnxruntime']}"

    def test_the_order_is_not_that_of_the_kit(self, measured: Visits, prepared: tuple[Path, Kit]) -> None:
        items = prepared[1].items()
        assert [visit.item for visit in measured.visits] != items


class TestGoingOn:
    def test_nothing_is_measured_twice(self, continued: Callable[..., list[dict[str, Any]]], measured: Visits) -> None:
        lines = continued(visits=list(measured.visits[:5]), least=1, most=1)
        assert lines[1:6] == [visit.model_dump(mode="json") for visit in measured.visits[:5]]
        assert Counter(line["item"] for line in lines[1:]) == dict.fromkeys((v.item for v in measured.visits), 1)

    def test_after_the_first_passes_only_what_is_not_known_well(
        self, continued: Callable[..., list[dict[str, Any]]], measured: Visits
    ) -> None:
        """Three passes in which all but two items took the same each time: only those two are visited again."""
        restless = {"layers.03.x2", "net.02"}
        visits = []
        for number, factor in enumerate((1.0, 1.5, 2.0)):
            for visit in measured.visits:
                took = [2.0 * (factor if visit.item in restless else 1.0)]
                visits.append(visit.model_copy(update={"number": number, "latency_ms": took, "anchor_ms": [1.0]}))
        lines = continued(visits=visits, least=3, most=5, error=0.005)
        new = [(line["number"], line["item"]) for line in lines[1 + 3 * ITEMS :]]
        assert {item for _, item in new} == restless
        assert len(set(new)) == len(new)
        assert {number for number, _ in new} <= {3, 4}
        assert (3, "net.02") in new

    def test_what_is_known_well_enough_ends_it(
        self, continued: Callable[..., list[dict[str, Any]]], measured: Visits
    ) -> None:
        visits = [
            visit.model_copy(update={"number": number, "latency_ms": [2.0 + 0.01 * number], "anchor_ms": [1.0]})
            for number in range(3)
            for visit in measured.visits
        ]
        # 2.00 2.01 2.02: the standard error is 1.2533 x 1.4826 x 0.01 / sqrt(3) / 2.01 = 0.53 %.
        assert len(continued(visits=visits, least=3, most=4, error=0.0054)) == 1 + 3 * ITEMS
        assert len(continued(visits=visits, least=3, most=4, error=0.0053)) == 1 + 4 * ITEMS

    def test_a_kit_that_changed_is_another_kit(self, continued: Callable[..., list[dict[str, Any]]]) -> None:
        with pytest.raises(UsageError, match=r"begun under other conditions: another kit\. Times of both cannot stand"):
            continued({"kit": "0" * 64})

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"setting": "int8-cpu"}, "setting int8-cpu there, fp32-cpu-1thread now"),
            ({"runtime": "onnxruntime 1.2.3"}, "runtime onnxruntime 1.2.3 there"),
            ({"rail": "board"}, "power rail board there, None now"),
        ],
    )
    def test_another_setting_is_refused(
        self, change: dict[str, Any], words: str, continued: Callable[..., list[dict[str, Any]]]
    ) -> None:
        with pytest.raises(UsageError, match=words):
            continued(change)

    def test_another_machine_is_refused(self, continued: Callable[..., list[dict[str, Any]]], measured: Visits) -> None:
        device = json.loads(json.dumps(measured.header.device))
        device["cpu"]["model"] = "Another processor"
        with pytest.raises(
            UsageError, match=r"the processor differs: Another processor and .*rename or remove that file"
        ):
            continued({"device": device})

    def test_a_kit_is_not_measured_twice_at_the_same_time(self, kit_folder: Path) -> None:
        with (kit_folder / "manifest.json").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="is being measured by another process"):
                measure_kit(kit_folder, read_kit(kit_folder), SETTING, Silent(), Effort(1, 1))
        assert not measured_path(kit_folder, SETTING).exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_between_two_visits(
        self, number: int, kit_folder: Path, signal_after: Callable[..., Silent]
    ) -> None:
        stopping = signal_after(3, number)
        with pytest.raises(Interrupted, match="the same command goes on from here") as caught:
            measure_kit(kit_folder, read_kit(kit_folder), SETTING, stopping, Effort(least=1, most=1))
        assert caught.value.exit_code == 128 + number
        assert len(lines_of(measured_path(kit_folder, SETTING))) == 1 + 3


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom cli.main import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "profile", "run", str(folder), "--threads", "1", "--quiet", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while len(lines_of(path)) < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} has {len(lines_of(path))} lines"
        time.sleep(0.005)


def test_a_process_that_is_killed_is_gone_on_with(kit_folder: Path) -> None:
    """Killed, then cut short in a line, then interrupted, then left alone: every item three times in the end."""
    path = kit_folder / "measured-fp32-cpu-1thread.jsonl"
    options = ("--passes", "3", "--precision", "fp32")
    with start(kit_folder, *options) as process:
        wait_for(path, 8, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    path.write_bytes(path.read_bytes().rstrip(b"\n")[:-25])  # as if the kill had come in the middle of a line
    kept = lines_of(path)
    assert len(kept) >= 7
    with start(kit_folder, *options) as process:
        wait_for(path, len(kept) + 10, process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in told
    between = lines_of(path)
    assert between[: len(kept)] == kept
    assert len(between) < 1 + 3 * ITEMS
    assert not (kit_folder / "table-fp32-cpu-1thread.json").exists()
    with start(kit_folder, *options) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    lines = lines_of(path)
    assert lines[: len(between)] == between
    assert sum("kit" in line for line in lines) == 1  # one header
    visited = Counter((line["number"], line["item"]) for line in lines[1:])
    assert set(visited.values()) == {1}
    assert len(visited) == 3 * ITEMS
    assert (
        json.loads((kit_folder / "table-fp32-cpu-1thread.json").read_text())["measured"]["latency_ms"]["samples"] == 36
    )


class TestEnergy:
    def test_without_a_sensor_it_is_refused_and_nothing_is_begun(
        self, kit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        kit = read_kit(kit_folder)
        with pytest.raises(UsageError, match=r"measures the power of CPUExecutionProvider .*leave out --energy"):
            measure_kit(kit_folder, kit, SETTING, Silent(), Effort(1, 1, energy_s=0.1), root=tmp_path)
        assert not measured_path(kit_folder, SETTING).exists()  # it would be refused without --energy, too

    def test_energy_is_that_of_the_counter_over_the_runs(
        self, kit_folder: Path, measured: Visits, twenty_watts: Path
    ) -> None:
        path, kit = measured_path(kit_folder, SETTING), read_kit(kit_folder)
        items = {"net.separate", "net.05"}
        header = {**measured.header.model_dump(mode="json"), "rail": "package-0"}
        header["device"] = identify(twenty_watts).model_dump(mode="json")
        lines = [header, *(v.model_dump(mode="json") for v in measured.visits if v.item not in items)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        effort = Effort(least=1, most=1, energy_s=0.4)
        measure_kit(kit_folder, kit, SETTING, Silent(), effort, root=twenty_watts)
        new = [visit for visit in visits_of(path).visits if visit.item in items]
        assert {visit.item for visit in new} == items
        for visit in new:
            assert visit.energy_mj is not None
            assert visit.anchor_energy_mj is not None
            # 20 W for so many ms are so many times 20 mJ; a run's mean is above its median, and the machine not at rest.
            for energy, took in ((visit.energy_mj, visit.latency_ms), (visit.anchor_energy_mj, visit.anchor_ms)):
                assert 0.2 * 20 * min(took) < energy < 20 * 20 * max(took)

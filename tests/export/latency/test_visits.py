"""Lines of a measured kit, and how well the median of visits is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.errors import UsageError
from export.latency.visits import Header, Visit, Visits, standard_error, visits_of


class TestStandardError:
    def test_by_hand(self) -> None:
        # The median of 1 2 3 4 100 is 3; from it they are 2 1 0 1 97 away, in the median 1.
        assert standard_error([100, 1, 4, 2, 3]) == pytest.approx(1.2533 * 1.4826 * 1 / math.sqrt(5) / 3, rel=1e-12)
        # 10 and 12 are 1 away from 11, 11 and 11 none; half of 0 + 1.
        assert standard_error([10, 11, 11, 12]) == pytest.approx(1.2533 * 1.4826 * 0.5 / 2 / 11, rel=1e-12)

    def test_equal_values_are_known_exactly_and_two_say_nothing(self) -> None:
        assert standard_error([2.0, 2.0, 2.0]) == 0
        assert standard_error([2.0, 2.0]) == standard_error([]) == math.inf

    @pytest.mark.parametrize("scale", [1.0, 250.0])
    def test_it_is_the_spread_that_medians_have(self, scale: float) -> None:
        draws = np.random.default_rng(1).normal(scale, 0.05 * scale, (2000, 101))
        told = float(np.mean([standard_error(row) for row in draws.tolist()]))
        seen = float(np.std(np.median(draws, axis=1))) / scale
        assert told == pytest.approx(seen, rel=0.05)
        assert told == pytest.approx(1.2533 * 0.05 / math.sqrt(101), rel=0.03)

    def test_a_single_bad_visit_hardly_counts(self) -> None:
        good = np.random.default_rng(2).normal(1, 0.01, 10).tolist()
        assert standard_error([*good, 50.0]) < 2 * standard_error(good)


class TestFile:
    @pytest.fixture
    def written(self, visits_of_times: Callable[..., Visits], tmp_path: Path) -> tuple[Path, Visits]:
        found = visits_of_times({"net.shared": 2.0, "stem": 0.5, "heads.a": 0.25}, passes=2)
        path = tmp_path / "measured.jsonl"
        lines = [found.header.model_dump(mode="json"), *(v.model_dump(mode="json") for v in found.visits)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path, found

    def test_it_reads_back(self, written: tuple[Path, Visits]) -> None:
        path, found = written
        assert visits_of(path) == found
        assert [visit.ratio for visit in found.of("stem")] == [0.25, 0.25]
        assert [visit.number for visit in found.of("heads.a")] == [0, 1]

    def test_a_line_cut_short_is_left_out(self, written: tuple[Path, Visits]) -> None:
        path, found = written
        path.write_bytes(path.read_bytes()[:-20])
        assert visits_of(path).visits == found.visits[:-1]

    def test_an_empty_file_is_no_measurement(self, tmp_path: Path) -> None:
        (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
        for name in ("none.jsonl", "absent.jsonl"):
            with pytest.raises(UsageError, match=r"holds no measurement; `bmtas profile run`"):
                visits_of(tmp_path / name)

    @pytest.mark.parametrize(
        ("line", "change", "words"),
        [
            (0, {"schema_version": 2}, "found schema_version 2, this version of bmtas understands 1; measure anew"),
            (0, {"schema_version": None}, "found schema_version None"),
            (0, {"rail": 3}, "rail: .*the file was changed"),
            (1, {"latency_ms": []}, "latency_ms: .*the file was changed"),
            (2, {"latency_ms": [-1.0]}, "latency_ms.0"),
            (2, {"anchor_ms": [0.0]}, "anchor_ms.0"),
            (2, {"colour": "red"}, "colour"),
        ],
    )
    def test_a_changed_file_is_refused(
        self, line: int, change: dict[str, Any], words: str, written: tuple[Path, Visits]
    ) -> None:
        path, _ = written
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        lines[line] |= change
        path.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")
        with pytest.raises(UsageError, match=words):
            visits_of(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text("1\n2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is no file of measurements"):
        visits_of(path)


def test_headers_tell_in_what_they_differ(visits_of_times: Callable[..., Visits]) -> None:
    one = visits_of_times({"net.shared": 1.0, "stem": 1.0}).header
    assert one.differences(one) == []
    other = one.model_copy(update={"kit": "f" * 64, "setting": "int8-cpu", "runtime": "onnxruntime 1.20.0"})
    assert one.differences(other) == [
        "another kit",
        "setting int8-cpu there, fp32-cpu-1thread now",
        "runtime onnxruntime 1.20.0 there, onnxruntime 1.31.1 now",
    ]
    with_energy = Header.model_validate({**one.model_dump(), "rail": "board", "provider": "CUDAExecutionProvider"})
    assert one.differences(with_energy) == [
        "provider CUDAExecutionProvider there, CPUExecutionProvider now",
        "power rail board there, None now",
    ]


def test_the_ratio_is_that_of_medians() -> None:
    visit = Visit(
        number=0,
        item="stem",
        anchor_ms=[4.0, 2.0, 90.0],
        latency_ms=[1.0, 3.0, 70.0, 1.0],
        energy_mj=None,
        anchor_energy_mj=None,
        date="2026-01-02",
    )
    assert visit.ratio == 2.0 / 4.0

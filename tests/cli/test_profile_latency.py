"""`bmtas profile --latency`, `prepare`, `run` and `show`: tables of this machine, and budgets in ms that are kept by them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export.latency.meter
from costs.table import CostTable
from costs.units import Resource
from export.latency.visits import visits_of
from export.stopwatch import Rules

MS = Resource.LATENCY_MS
NETWORK = ("--tasks", "semseg,depth", "--backbone", "tiny", "--size", "64x64")
MEASURE = ("--passes", "3", "--threads", "1")
# All of the extra `host` but the ONNX runtime, which a device has of its own.
HEAVY = ("torch", "torchvision", "torchmetrics", "fvcore", "onnx", "onnxscript", "PIL", "yaml", "scipy", "matplotlib")
Bmtas = Callable[..., Any]


def on_a_device(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which nothing of the host can be imported."""
    code = f"import sys\nfor name in {HEAVY}:\n    sys.modules[name] = None\nfrom cli.main import run\nsys.exit(run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def at_once(bmtas: Bmtas, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A kit that was prepared and measured by one command, and what that said."""
    kit = tmp_path_factory.mktemp("at-once") / "kit"
    result = bmtas("profile", "--latency", "--data", tiny_data, *NETWORK, *MEASURE, "--kit", kit, "--json", "-")
    assert result.code == 0, result.err
    return kit, result


@pytest.fixture(scope="module")
def table(at_once: tuple[Path, Any]) -> dict[str, Any]:
    """The table in JSON, as if it had been within 2 % of whole networks, whatever else this machine did."""
    data: dict[str, Any] = json.loads(at_once[1].out)
    data["measured"]["latency_ms"]["held_out"].update(median_error=0.02, ratio_interval=[0.9, 1.1])
    return data


class TestAtOnce:
    def test_the_table_knows_counted_costs_and_latency(self, at_once: tuple[Path, Any]) -> None:
        kit, result = at_once
        assert result.out == (kit / "table-fp32-cpu-1thread.json").read_text()
        table = CostTable.from_json(result.out)
        assert table.resources() == (Resource.MADDS, Resource.PARAMS, MS)
        assert (table.backbone, table.tasks, table.input_size) == ("tiny", ["semseg", "depth"], (64, 64))
        about = table.measured[MS]
        assert (about.precision, about.threads, about.provider) == ("fp32", 1, "CPUExecutionProvider")
        assert about.samples == 36  # three visits with twelve runs each
        assert about.held_out.networks == 3
        assert table.count_costs(MS).shape == (6, 2)
        assert table.count_costs(MS).min() > 0

    def test_the_counted_part_is_what_counting_says(
        self, at_once: tuple[Path, Any], bmtas: Bmtas, tiny_data: Path
    ) -> None:
        counted = json.loads(bmtas("profile", "--data", tiny_data, *NETWORK, "--json", "-").out)
        measured = json.loads(at_once[1].out)
        for own, theirs in zip(measured["layers"], counted["layers"], strict=True):
            assert own["per_group"] == theirs["per_group"]
        assert measured["totals"]["separate"]["madds"] == counted["totals"]["separate"]["madds"]

    def test_the_same_command_goes_on(self, at_once: tuple[Path, Any], bmtas: Bmtas, tiny_data: Path) -> None:
        kit, first = at_once
        lines = (kit / "measured-fp32-cpu-1thread.jsonl").read_bytes()
        again = bmtas("profile", "--latency", "--data", tiny_data, *NETWORK, *MEASURE, "--kit", kit, "--json", "-")
        assert again.code == 0
        assert "going on with the kit in" in again.err
        assert again.out == first.out
        assert (kit / "measured-fp32-cpu-1thread.jsonl").read_bytes() == lines

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (("--backbone", "mobilenet_v2"), "holds a kit of the backbone tiny, and mobilenet_v2 is asked for"),
            (("--tasks", "semseg,edge"), "the tasks ['semseg', 'depth'], and ['semseg', 'edge'] is asked for"),
            (("--size", "32x64"), "the size (64, 64), and (32, 64) is asked for"),
            (("--runtime", "openvino"), "the runtime onnxruntime, and openvino is asked for"),
            (("--precision", "int8"), "the precisions ['fp32'], and ['fp32', 'int8'] is asked for"),
        ],
    )
    def test_a_kit_of_another_network_is_not_gone_on_with(
        self, change: tuple[str, ...], words: str, at_once: tuple[Path, Any], bmtas: Bmtas, tiny_data: Path
    ) -> None:
        result = bmtas("profile", "--latency", "--data", tiny_data, *NETWORK, *MEASURE, *change, "--kit", at_once[0])
        assert result.code == 2
        assert words in " ".join(result.err.split())
        assert "--kit" in result.err

    def test_tasks_are_real_ones(self, bmtas: Bmtas, tmp_path: Path) -> None:
        result = bmtas("profile", "--latency", "--tasks-count", "3", "--kit", tmp_path / "kit")
        assert result.code == 2
        assert "--tasks-count makes up its tasks" in result.err
        assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--kit", "kit"),
        ("--precision", "int8"),
        ("--runtime", "openvino"),
        ("--provider", "cpu"),
        ("--threads", "2"),
        ("--passes", "3"),
        ("--energy",),
    ],
    ids=lambda options: options[0],
)
def test_options_of_measuring_mean_nothing_to_counting(options: tuple[str, ...], bmtas: Bmtas) -> None:
    result = bmtas("profile", *options)
    assert result.code == 2
    assert f"{options[0]}: means nothing without --latency" in result.err


@pytest.fixture(scope="module")
def kit(bmtas: Bmtas, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kit = tmp_path_factory.mktemp("two-steps") / "kit"
    result = bmtas("profile", "prepare", kit, "--data", tiny_data, *NETWORK, "--precision", "fp32,int8")
    assert result.code == 0, result.err
    assert "23 networks in fp32, int8, for onnxruntime" in result.out
    assert "bmtas profile run kit" in result.out
    return kit


@pytest.fixture(scope="module")
def measured(kit: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = on_a_device("profile", "run", kit, *MEASURE, "--quiet")
    assert done.returncode == 0, done.stderr
    return kit, done


class TestTwoSteps:
    """Prepared on one machine, measured where there is no PyTorch."""

    def test_a_table_for_each_precision(self, measured: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        kit, done = measured
        for precision in ("fp32", "int8"):
            path = kit / f"table-{precision}-cpu-1thread.json"
            assert read(path)["measured"]["latency_ms"]["precision"] == precision
            assert str(path) in done.stdout
            assert len(visits_of(kit / f"measured-{precision}-cpu-1thread.jsonl").visits) == 23 * 3

    def test_what_it_says(self, measured: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        said = " ".join(measured[1].stdout.split())
        assert "3 networks that the table was not fitted to: median error" in said
        assert "in proportion to MAdds: median" in said
        assert "at least 36 runs of each part" in said
        assert "fp32, onnxruntime" in said
        assert "CPUExecutionProvider, 1 thread " in said
        assert f"table: {measured[0]}/table-int8-cpu" in said
        for word in ("layers.05", "heads.depth", "all shared", "separate", "held out", "1x5 2x1", "2x6"):
            assert word in said

    def test_a_table_is_shown_again_without_pytorch(
        self, measured: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        path = measured[0] / "table-int8-cpu-1thread.json"
        done = on_a_device("profile", "show", path)
        assert done.returncode == 0, done.stderr
        shown = done.stdout.splitlines()
        assert f"table: {path}" in shown
        assert measured[1].stdout.splitlines()[-len(shown) :] == shown
        as_json = on_a_device("profile", "show", path, "--json", "-")
        assert as_json.stdout == path.read_text()

    def test_a_picture_needs_what_a_device_need_not_have(
        self, measured: tuple[Path, subprocess.CompletedProcess[str]], bmtas: Bmtas, tmp_path: Path
    ) -> None:
        path = measured[0] / "table-fp32-cpu-1thread.json"
        target = tmp_path / "table.png"
        without = on_a_device("profile", "show", path, "--picture", target)
        assert without.returncode == 3
        assert "matplotlib" in without.stderr
        assert not target.exists()
        assert bmtas("profile", "show", path, "--picture", target).code == 0
        assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert bmtas("profile", "show", path, "--picture", tmp_path / "table.jpg").code == 2

    def test_several_numbers_of_threads(self, kit: Path, tmp_path: Path, bmtas: Bmtas) -> None:
        shutil.copytree(kit, tmp_path / "kit", ignore=shutil.ignore_patterns("*-cpu-*"))
        options = ("--precision", "fp32", "--threads", "1,2", "--passes", "3")
        refused = bmtas("profile", "run", tmp_path / "kit", *options, "--json", tmp_path / "last.json")
        assert refused.code == 2
        assert "--picture and --json are of one table, and several are asked for" in refused.err
        result = bmtas("profile", "run", tmp_path / "kit", *options)
        assert result.code == 0, result.err
        names = sorted(path.name for path in (tmp_path / "kit").glob("table-*"))
        assert names == ["table-fp32-cpu-1thread.json", "table-fp32-cpu-2threads.json"]
        assert [read(tmp_path / "kit" / name)["measured"]["latency_ms"]["threads"] for name in names] == [1, 2]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--precision", "bf16"), "the kit holds fp32, int8, not bf16"),
            (("--threads", "some"), "--threads 'some': expected whole numbers"),
            (("--provider", "tpu"), "unknown provider 'tpu'"),
        ],
    )
    def test_what_cannot_be_measured(self, options: tuple[str, ...], words: str, kit: Path, bmtas: Bmtas) -> None:
        result = bmtas("profile", "run", kit, "--passes", "3", *options)
        assert result.code == 2
        assert words in result.err

    def test_prepare_writes_into_no_folder_that_is_in_use(self, kit: Path, bmtas: Bmtas, tiny_data: Path) -> None:
        before = sorted(kit.rglob("*"))
        result = bmtas("profile", "prepare", kit, "--data", tiny_data, *NETWORK)
        assert result.code == 2
        assert "is not empty, and measurements may stand in it" in result.err
        assert sorted(kit.rglob("*")) == before

    def test_no_kit_and_no_table(self, bmtas: Bmtas, tmp_path: Path) -> None:
        result = bmtas("profile", "run", tmp_path)
        assert (result.code, "it is no kit" in result.err) == (2, True)
        result = bmtas("profile", "show", tmp_path / "absent.json")
        assert (result.code, "absent.json does not exist" in result.err) == (2, True)


class TestVerdict:
    def test_a_table_that_is_far_off_keeps_no_budget(self, table: dict[str, Any], bmtas: Bmtas, tmp_path: Path) -> None:
        path = tmp_path / "table.json"
        off = json.loads(json.dumps(table))
        off["measured"]["latency_ms"]["held_out"]["median_error"] = 0.3
        for data, told in ((table, False), (off, True)):
            path.write_text(json.dumps(data))
            shown = " ".join(bmtas("profile", "show", path).out.split())
            assert ("over 10%: no budget is kept by this table" in shown) is told
            assert ("median error 30.0%" in shown) is told
            assert (f"--tasks semseg,depth --backbone tiny --size 64x64 --costs {path} --budget" in shown) is not told

    def test_a_counted_table_has_nothing_to_show(self, bmtas: Bmtas, tiny_data: Path, tmp_path: Path) -> None:
        path = tmp_path / "counted.json"
        assert bmtas("profile", "--data", tiny_data, *NETWORK, "--json", path).code == 0
        result = bmtas("profile", "show", path, "--picture", tmp_path / "a.png")
        assert result.code == 2
        assert "nothing in this table was measured" in result.err


@pytest.fixture
def search(bmtas: Bmtas, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Search the tiny data with a table, with a meter that takes a few samples."""
    monkeypatch.setattr(
        export.latency.meter, "METER_RULES", Rules(samples=12, warmup_s=0.0, window_s=0.01, percentiles=(50.0,))
    )

    def run(data: dict[str, Any], budget: str, *arguments: str) -> Any:
        path = tmp_path / "measured.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        quick = ("--batch-size", "2", "--search-size", "32x32", "--warmup-steps", "1", "--search-steps", "1")
        given = ("--costs", path, "--budget", budget, "--runs", tmp_path / "runs", *quick, *NETWORK, *arguments)
        return bmtas("search", "--data", tiny_data, *given)

    return run


def changed(table: dict[str, Any], **change: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(table))
    return {**data, **change}


def times(table: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a table in which all latencies are `factor` times as high."""
    data = changed(table)
    for layer in data["layers"]:
        layer["per_count"]["latency_ms"] = [factor * cost for cost in layer["per_count"]["latency_ms"]]
    for part in data["fixed"]:
        part["cost"]["latency_ms"] *= factor
    return data


class TestBudgetInMs:
    def test_the_range_is_told_before_anything_is_done(
        self, table: dict[str, Any], search: Callable[..., Any], tmp_path: Path
    ) -> None:
        ends = [table["totals"][name]["latency_ms"] for name in ("shared", "split")]
        result = search(table, f"{max(ends) * 1.01}ms", "--dry-run")
        assert result.code == 0, result.err
        assert "trees cost" in result.out
        assert not (tmp_path / "runs").exists()

    def test_below_the_table_s_reach(self, table: dict[str, Any], search: Callable[..., Any]) -> None:
        least = min(table["totals"]["shared"]["latency_ms"], table["totals"]["split"]["latency_ms"])
        result = search(table, f"{least / 3}ms", "--dry-run")
        assert result.code == 6
        assert "no network of tiny for 2 tasks is within it" in result.err

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"batch": 8}, "batch 8"),
            ({"input_size": [32, 64]}, "input size (height, width) (32, 64)"),
            ({"backbone": "resnet50"}, "found backbone resnet50"),
            ({"tasks": ["semseg", "edge"]}, "edge"),
        ],
    )
    def test_a_table_of_another_network_is_refused(
        self, change: dict[str, Any], words: str, table: dict[str, Any], search: Callable[..., Any]
    ) -> None:
        result = search(changed(table, **change), "100s", "--dry-run")
        assert result.code == 2
        assert words in result.err
        assert "measured.json" in result.err

    def test_a_table_that_is_far_off_is_refused(self, table: dict[str, Any], search: Callable[..., Any]) -> None:
        off = changed(table)
        off["measured"]["latency_ms"]["held_out"]["median_error"] = 0.2
        result = search(off, "100s", "--dry-run")
        assert result.code == 2
        assert "the table is 20.0% off on whole networks" in result.err

    def test_a_table_of_another_machine_gets_a_margin(
        self, table: dict[str, Any], search: Callable[..., Any], tmp_path: Path
    ) -> None:
        """10 % more than the table says, which is how far a whole network was above it."""
        other = changed(table)
        other["measured"]["latency_ms"]["device"]["cpu"]["model"] = "Another processor"
        result = search(other, "100s")
        assert result.code == 0, result.err
        assert "the processor differs: Another processor and" in result.err
        assert "Costs are taken 10.0% higher" in result.err
        (run,) = (tmp_path / "runs").iterdir()
        found, kept = read(run / "architecture.json"), read(run / "table.json")
        assert "trials" not in found
        assert "latency_ms" not in found["measured"]
        counts = [len(grouping) for grouping in found["groupings"]]
        by_hand = sum(part["cost"]["latency_ms"] for part in table["fixed"])
        by_hand += sum(
            layer["per_count"]["latency_ms"][n - 1] for layer, n in zip(table["layers"], counts, strict=True)
        )
        assert found["costs"]["latency_ms"] == pytest.approx(1.1 * by_hand)
        assert kept["fixed"][0]["cost"]["latency_ms"] == pytest.approx(1.1 * table["fixed"][0]["cost"]["latency_ms"])

    def test_a_budget_that_this_machine_cannot_keep_now(
        self, table: dict[str, Any], search: Callable[..., Any], tmp_path: Path
    ) -> None:
        """By a table that says a ten-thousandth of the truth, a microsecond is enough; measured, it is not."""
        wrong = times(table, 1e-4)
        limit = 1.5 * max(table["totals"][name]["latency_ms"] for name in ("shared", "split")) * 1e-4
        result = search(wrong, f"{limit}ms")
        assert result.code == 6
        assert "the network that shares everything takes" in result.err
        assert "here now" in result.err
        assert not (tmp_path / "runs").exists()

    def test_what_is_found_was_measured_to_be_within_the_budget(
        self, table: dict[str, Any], search: Callable[..., Any], bmtas: Bmtas, tmp_path: Path
    ) -> None:
        result = search(table, "20s")
        assert result.code == 0, result.err
        assert "measuring the network found, in turn with the all-shared and the separate ones" in result.err
        (run,) = (tmp_path / "runs").iterdir()
        found = read(run / "architecture.json")
        (trial,) = found["trials"]
        assert 0 < found["measured"]["latency_ms"] <= 20_000
        assert trial["group_counts"] == [len(grouping) for grouping in found["groupings"]]
        assert trial["latency_ms"]["measured"] == found["measured"]["latency_ms"]
        assert trial["latency_ms"]["predicted"] == found["costs"]["latency_ms"]
        assert found["measured"]["latency_ms"] <= trial["latency_ms"]["measured_at_most"] <= 20_000
        assert read(run / "table.json")["measured"] == table["measured"]
        networks = json.loads(bmtas("show", "--json", "-", "--runs", run.parent).out)["networks"]
        assert networks["found"]["costs"] == found["costs"]

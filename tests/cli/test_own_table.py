"""`bmtas search --table`: what somebody has measured elsewhere becomes a budget, and what does not fit is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costs.partitions import partitions_of, write_key

TASKS = ["semseg", "edge", "depth"]
LATENCY = [1.0, 1.5, 2.5]  # ms of each of 18 layers with 1, 2, 3 groups; the stem and each head take 2 ms
FIXED = 4 * 2.0
BUDGET = "45ms"  # all shared is 26, only the stem shared 53
QUICK = ("--batch-size", "2", "--search-size", "32x32", "--warmup-steps", "1", "--search-steps", "1", "--size", "64x64")


@pytest.fixture(scope="module")
def profile(bmtas: Callable[..., Any], tiny_data: Path) -> dict[str, Any]:
    """What `bmtas profile --json` writes for the tiny data."""
    content: dict[str, Any] = json.loads(bmtas("profile", "--data", tiny_data, "--size", "64x64", "--json", "-").out)
    return content


def with_latency(profile: dict[str, Any], by_group: list[float]) -> dict[str, Any]:
    """Return a profile with a column more: a latency by number of groups."""
    data: dict[str, Any] = json.loads(json.dumps(profile))
    data["depends_on"]["latency_ms"] = "group_count"
    for layer in data["layers"]:
        layer["per_count"]["latency_ms"] = by_group
    for part in data["fixed"]:
        part["cost"]["latency_ms"] = 2.0
    return data


def by_partition(profile: dict[str, Any]) -> dict[str, Any]:
    """Return a table with nothing but a latency per grouping: the second and third task together cost 2 ms more."""
    keys = [write_key(partition, TASKS) for partition in partitions_of(7)]
    costs = {key: LATENCY[key.count("|")] + 2.0 * ("edge+depth" in key and "|" in key) for key in keys}
    assert sorted(costs.values()) == [1.0, 1.5, 1.5, 2.5, 3.5]
    return {
        **{key: profile[key] for key in ("schema_version", "backbone", "input_size", "batch")},
        "tasks": TASKS[::-1],  # in another order than the data's
        "depends_on": "partition",
        "layers": [{"name": layer["name"], "per_partition": {"latency_ms": costs}} for layer in profile["layers"]],
        "fixed": [{**part, "cost": {"latency_ms": 2.0}} for part in profile["fixed"]],
        "provenance": {"device": "a board"},
    }


@pytest.fixture
def search(bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Search the tiny data with a table, into a folder of the test's own."""

    def run(table: dict[str, Any], *arguments: str, budget: str = BUDGET) -> Any:
        path = tmp_path / "board.json"
        path.write_text(json.dumps(table), encoding="utf-8")
        given = ("--table", path, "--budget", budget, "--runs", tmp_path / "runs", *QUICK, *arguments)
        return bmtas("search", "--data", tiny_data, *given)

    return run


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_found_network_is_within_a_budget_of_latency(
    search: Callable[..., Any], profile: dict[str, Any], bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    result = search(with_latency(profile, LATENCY))
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    found = read(run / "architecture.json")
    counts = [len(grouping) for grouping in found["groupings"]]
    latency = FIXED + sum(LATENCY[count - 1] for count in counts)
    assert found["costs"]["latency_ms"] == pytest.approx(latency, rel=1e-12)
    assert latency <= 45
    assert max(counts) > 1  # the budget leaves room, and so short a search has learnt to share nothing
    assert "latency_ms" not in found["measured"]
    table = read(run / "table.json")
    assert table["layers"][3]["per_count"]["latency_ms"] == LATENCY
    assert table["layers"][3]["per_group"]["madds"] == profile["layers"][3]["per_group"]["madds"]
    assert len(read(run / "run.json")["table_digest"]) == 64
    steps = [json.loads(line) for line in (run / "search/history.jsonl").read_text().splitlines()]
    expected = [step["expected.latency_ms"] for step in steps if step["phase"] == "architecture"]
    assert all(26 <= value <= 53 for value in expected)
    shown = bmtas("show", "--runs", run.parent).out
    assert re.search(rf"found {latency:.1f} ms; all shared 26\.0 ms, separate networks 57\.0 ms", shown)
    networks = json.loads(bmtas("show", "--json", "-", "--runs", run.parent).out)["networks"]
    assert networks["found"]["costs"] == found["costs"]
    assert networks["separate"]["costs"]["latency_ms"] == 18 * 2.5 + 3 * 2 + 3 * 2


def test_a_latency_per_grouping_is_a_budget_too(
    search: Callable[..., Any], profile: dict[str, Any], bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    result = search(by_partition(profile))
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    found = read(run / "architecture.json")
    latency = FIXED
    for grouping in found["groupings"]:
        latency += LATENCY[len(grouping) - 1] + 2.0 * (["edge", "depth"] in grouping)
    assert found["costs"]["latency_ms"] == pytest.approx(latency, rel=1e-12)
    assert latency <= 45
    networks = json.loads(bmtas("show", "--json", "-", "--runs", run.parent).out)["networks"]
    assert networks["found"]["costs"] == found["costs"]


def test_several_budgets_hold_together(search: Callable[..., Any], profile: dict[str, Any], tmp_path: Path) -> None:
    result = search(with_latency(profile, LATENCY), "--budget", "110MMAdds", "--budget", "1MiB")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    costs = read(run / "architecture.json")["costs"]
    assert costs["latency_ms"] <= 45
    assert costs["madds"] <= 110e6
    assert costs["peak_memory_mib"] <= 1


@pytest.mark.slow
def test_the_same_command_goes_on_only_with_an_equal_table(
    search: Callable[..., Any], profile: dict[str, Any], tmp_path: Path
) -> None:
    table = with_latency(profile, LATENCY)
    assert search(table).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    before = (run / "architecture.json").read_bytes()
    (run / "architecture.json").unlink()  # as killed just before the end

    def runs() -> list[str]:
        return sorted(path.name[:3] for path in (tmp_path / "runs").iterdir())

    assert search(with_latency(profile, [1.0, 1.5, 2.75])).code == 0  # another table: another run
    assert runs() == ["001", "002"]
    assert not (run / "architecture.json").exists()
    reordered = dict(reversed(list(table.items())))  # the same table, written otherwise
    assert search(reordered).code == 0
    assert runs() == ["001", "002"]
    assert (run / "architecture.json").read_bytes() == before


def test_a_table_can_be_tried_without_writing(
    search: Callable[..., Any], profile: dict[str, Any], tmp_path: Path
) -> None:
    result = search(with_latency(profile, LATENCY), "--dry-run")
    assert result.code == 0
    assert "budget: 45ms; trees cost 26.0 ms to 53.0 ms (all shared 26.0 ms" in result.out
    assert not (tmp_path / "runs").exists()


def test_a_budget_below_the_table_s_reach_is_answered_with_the_range(
    search: Callable[..., Any], profile: dict[str, Any]
) -> None:
    result = search(with_latency(profile, LATENCY), "--dry-run", budget="25.9ms")
    assert result.code == 6
    assert "reachable is 26.00 ms (all layers shared) to 53.00 ms" in result.err


def test_more_groups_that_cost_less_are_taken_as_they_are(search: Callable[..., Any], profile: dict[str, Any]) -> None:
    """On a wide device the cheapest network need not be the shared one; nor is the one that is split the dearest."""
    falling = with_latency(profile, [2.0, 1.0, 1.5])
    assert search(falling, "--dry-run", budget="25.9ms").code == 6
    result = search(falling, "--dry-run", budget="26ms")
    assert result.code == 0
    assert "no constraint" not in search(falling, "--dry-run", budget="40ms").err  # 35 is split, 44 is shared
    assert "no constraint" in search(falling, "--dry-run", budget="44ms").err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet50"}, ["found backbone resnet50", "backbone mobilenet_v2", "measure again"]),
        ({"input_size": [64, 96]}, ["input size (height, width) (64, 96)", "(64, 64)"]),
        ({"batch": 8}, ["batch 8", "batch 1"]),
        ({"schema_version": 2}, ["follows schema 2", "upgrade bmtas"]),
        ({"colour": "red"}, ["colour"]),
        ({"layers": []}, ["layers"]),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    search: Callable[..., Any], profile: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    result = search({**with_latency(profile, LATENCY), **change})
    assert result.code == 2
    for word in ["board.json", *words]:
        assert word in result.err
    assert not (tmp_path / "runs").exists()


def test_a_table_for_other_tasks_or_other_counts_is_refused(
    search: Callable[..., Any], profile: dict[str, Any]
) -> None:
    table = with_latency(profile, LATENCY)
    result = search(table, "--tasks", "semseg,edge")
    assert result.code == 2
    assert "found tasks ['depth', 'edge', 'semseg']" in result.err
    table["layers"][5]["per_group"]["madds"] += 1
    result = search(table)
    assert result.code == 2
    assert "layers.05 costs" in result.err
    assert "leave madds out of it" in result.err


def test_a_table_that_is_not_there_is_told(bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> None:
    result = bmtas("search", "--data", tiny_data, "--table", tmp_path / "absent.json", "--runs", tmp_path / "runs")
    assert result.code == 2
    assert "absent.json does not exist" in result.err


def test_a_budget_in_a_resource_that_the_table_lacks_is_refused(
    search: Callable[..., Any], profile: dict[str, Any]
) -> None:
    result = search(profile, "--dry-run")
    assert result.code == 2
    assert "madds, params, peak_memory_mib, not latency_ms" in result.err

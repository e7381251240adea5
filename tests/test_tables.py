"""Tables as files: what `bmtas profile` writes is read back, and equal tables are told from others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import costs
from bmtas.data.source import open_with_tasks
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.profile import build_table
from bmtas.tables import digest, read_table, table_json
from costs.errors import CostError
from costs.join import join_tables
from costs.parts import FixedCost, LayerCost
from costs.reach import budget_range
from costs.table import CostTable
from costs.units import Resource, parse_budget

TABLE = CostTable(
    backbone="toy",
    tasks=["a", "b"],
    input_size=(8, 16),
    batch=1,
    depends_on={Resource.MADDS: "groups_proportional", Resource.LATENCY_MS: "group_count"},
    layers=[LayerCost(name="l", per_group={Resource.MADDS: 10}, per_count={Resource.LATENCY_MS: [1, 1.5]})],
    fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 1, Resource.LATENCY_MS: 0.25})],
    provenance={"device": "a board"},
)


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_profile_has_totals_and_views_and_is_a_table_still(tmp_path: Path) -> None:
    data = table_json(TABLE, by_tasks=[1], expectation={"layers": []})
    assert data["totals"] == {
        "shared": {"madds": 11, "latency_ms": 1.25},
        "split": {"madds": 21, "latency_ms": 1.75},
        "separate": {"madds": 22, "latency_ms": 2.0},
    }
    assert data["by_tasks"] == [1]
    assert read_table(write(tmp_path / "profile.json", data)) == TABLE
    assert CostTable.from_json(json.dumps(data)) == TABLE
    with pytest.raises(CostError, match="total: a table has no such key"):
        CostTable.from_json(json.dumps({**data, "total": {}}))


def test_a_file_that_is_no_table_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.json does not exist"):
        read_table(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"cut\.json is not valid JSON"):
        read_table(tmp_path / "cut.json")
    with pytest.raises(UsageError, match="carries no schema_version"):
        read_table(write(tmp_path / "bare.json", {"layers": []}))
    with pytest.raises(UsageError, match=r"follows schema 2.*upgrade"):
        read_table(write(tmp_path / "newer.json", {**table_json(TABLE), "schema_version": 2}))
    with pytest.raises(CostError, match=r"odd\.json: colour"):
        read_table(write(tmp_path / "odd.json", {**table_json(TABLE), "colour": "red"}))
    short = table_json(TABLE)
    short["layers"][0]["per_count"]["latency_ms"] = [1.0]
    with pytest.raises(CostError, match=r"short\.json: .*1 costs in latency_ms .* 2 tasks need 2"):
        read_table(write(tmp_path / "short.json", short))


def test_digests_tell_tables_apart_and_not_their_layout(tmp_path: Path) -> None:
    data = table_json(TABLE)
    reordered = dict(reversed(list(data.items())))
    reordered["layers"] = [dict(reversed(list(layer.items()))) for layer in data["layers"]]
    assert digest(read_table(write(tmp_path / "reordered.json", reordered))) == digest(TABLE)
    data["layers"][0]["per_count"]["latency_ms"][1] = 1.5000001
    assert digest(read_table(write(tmp_path / "other.json", data))) != digest(TABLE)
    assert len(digest(TABLE)) == 64


def test_a_kit_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; give the table itself"):
        read_table(tmp_path)
    manifest = write(tmp_path / "manifest.json", {"schema_version": 1, "parts": [], "files": {}})
    with pytest.raises(UsageError, match=r"is the manifest of a kit; .* table-\*.json"):
        read_table(manifest)


# --- what the documentation shows of tables

ROOT = Path(costs.__file__).parent.parent
SEARCHING = ROOT / "docs/searching.md"


def test_the_table_of_the_examples_joins_with_the_profile_of_its_tasks() -> None:
    own = read_table(ROOT / "examples/own-table.json")
    dataset, tasks = open_with_tasks("scenes", own.tasks)
    joined = join_tables(build_table(get_backbone(own.backbone), tasks, dataset.size), own, "own-table.json")
    assert joined.resources() == tuple(resource for resource in Resource if resource is not Resource.ENERGY_MJ)
    low, high = budget_range(joined, Resource.LATENCY_MS)
    assert low < parse_budget("60ms").value < high  # the budget that docs/searching.md gives with it


def test_the_documentation_names_the_resources_and_units() -> None:
    text = " ".join(SEARCHING.read_text(encoding="utf-8").split())
    for word in (*(f"`{resource.value}`" for resource in Resource), "KiB, MiB and GiB", "us, ms and s"):
        assert word in text

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from costs import CostError, CostTable, FixedCost, LayerCost, Resource, budget_range
from costs.forms import partition_costs
from costs.join import join_tables

MakeTable = Callable[..., CostTable]


@pytest.fixture
def table(make_table: MakeTable) -> CostTable:
    # 3 tasks; the stem costs 7, the heads 10, 11 and 12, in every resource.
    return make_table(3, madds=[100, 200], params=[1, 2])


def test_totals_by_hand(table: CostTable) -> None:
    assert table.resources() == (Resource.MADDS, Resource.PARAMS)
    np.testing.assert_array_equal(table.layer_costs(Resource.MADDS), [100.0, 200.0])
    assert table.fixed_cost(Resource.MADDS) == 7 + 10 + 11 + 12
    assert table.shared_total(Resource.MADDS) == 40 + 300
    assert table.split_total(Resource.MADDS) == 40 + 3 * 300
    assert table.separate_total(Resource.MADDS) == 33 + 3 * (7 + 300)
    assert table.architecture_cost([1, 2], Resource.MADDS) == 40 + 100 + 400
    assert table.architecture_cost([3, 3], Resource.PARAMS) == table.split_total(Resource.PARAMS) == 40 + 9


def test_sums_are_rounded_once(make_table: MakeTable) -> None:
    table = make_table(2, madds=[0.1] * 10)
    assert table.architecture_cost([1] * 10, Resource.MADDS) == 7 + 10 + 11 + 1.0


def test_a_shared_part_of_some_tasks_is_copied_for_those_only() -> None:
    table = CostTable(
        backbone="toy",
        tasks=["a", "b", "c"],
        input_size=(8, 8),
        batch=1,
        layers=[LayerCost(name="l", per_group={Resource.MADDS: 1})],
        fixed=[
            FixedCost(name="stem", shared=True, tasks=[], cost={Resource.MADDS: 100}),
            FixedCost(name="adapter", shared=True, tasks=["a", "b"], cost={Resource.MADDS: 10}),
        ],
        provenance={},
    )
    assert table.separate_total(Resource.MADDS) == 3 * 1 + 3 * 100 + 2 * 10
    assert [part.name for part in table.subset(["c"]).fixed] == ["stem"]


def test_subset_keeps_the_order_asked_for_and_drops_other_heads(table: CostTable) -> None:
    part = table.subset(["task2", "task0"])
    assert part.tasks == ["task2", "task0"]
    assert part.fixed_cost(Resource.MADDS) == 7 + 10 + 12
    assert part.separate_total(Resource.MADDS) == 22 + 2 * 307
    assert CostTable.from_json(part.to_json()) == part


@pytest.mark.parametrize("tasks", [[], ["task0", "task0"], ["task0", "depth"]])
def test_a_subset_of_other_tasks_is_refused(table: CostTable, tasks: list[str]) -> None:
    with pytest.raises(CostError, match="each once"):
        table.subset(tasks)


def test_wrong_group_counts_are_refused(table: CostTable) -> None:
    with pytest.raises(CostError, match="3 group counts for a table of 2 layers"):
        table.architecture_cost([1, 1, 1], Resource.MADDS)
    with pytest.raises(CostError, match="layer 'layer1': 4 groups, but 3 tasks form 1 to 3"):
        table.architecture_cost([1, 4], Resource.MADDS)


def test_an_unknown_resource_is_refused_with_the_known_ones(table: CostTable) -> None:
    for ask in (table.layer_costs, table.fixed_cost, table.shared_total, table.split_total, table.separate_total):
        with pytest.raises(
            CostError, match=r"toy knows madds, params, not latency_ms; give .* --costs with a table that does"
        ):
            ask(Resource.LATENCY_MS)


def test_a_resource_is_known_by_its_key(table: CostTable) -> None:
    for ask in (table.fixed_cost, table.shared_total, table.split_total, table.separate_total, table.dependence):
        assert ask("madds") == ask(Resource.MADDS)  # type: ignore[arg-type]
        with pytest.raises(
            CostError, match=r"found 'watts', known: madds, params, latency_ms, energy_mj, peak_memory_mib"
        ):
            ask("watts")  # type: ignore[arg-type]
    assert table.architecture_cost([1, 2], "params") == table.architecture_cost([1, 2], Resource.PARAMS)  # type: ignore[arg-type]
    assert budget_range(table, "madds") == budget_range(table, Resource.MADDS)  # type: ignore[arg-type]


def test_json_round_trip_with_resources_as_keys(table: CostTable) -> None:
    text = table.to_json()
    assert CostTable.from_json(text) == table
    data = json.loads(text)
    assert data["schema_version"] == 1
    assert data["depends_on"] == "groups_proportional"
    assert data["layers"][0] == {"name": "layer0", "per_group": {"madds": 100.0, "params": 1.0}}


def counts(data: Any) -> list[Any]:
    """Return the layers, whose costs now are three numbers: by number of groups."""
    for layer in data["layers"]:
        layer["per_group"] = {resource: [cost] * 3 for resource, cost in layer["per_group"].items()}
    return list(data["layers"])


def broken(table: CostTable, change: Callable[[Any], object]) -> str:
    data = json.loads(table.to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema_version=2), ["found schema_version 2", "understands 1", "newer", "upgrade"]),
        (lambda d: d.pop("schema_version"), ["found schema_version None", "understands 1"]),
        (lambda d: d.update(schema_version=True), ["found schema_version True"]),
        (lambda d: d["layers"][1]["per_group"].update(madds=-1.0), ["layers.1.per_group.madds", "-1.0", "0"]),
        (lambda d: d["layers"][1]["per_group"].update(madds=float("nan")), ["layers.1.per_group.madds", "finite"]),
        (lambda d: d["layers"][1]["per_group"].update(madds="12"), ["layers.1.per_group.madds", "'12'"]),
        (
            lambda d: d["layers"][1]["per_group"].update(watts=1.0),
            [
                "layers.1.per_group.watts: 'watts' is no resource known here; known: madds, params, latency_ms, energy_mj, peak_memory_mib"
            ],
        ),
        (
            lambda d: [layer["per_group"].update(watts=1.0) for layer in d["layers"]],
            ["layers.0.per_group.watts: 'watts' is no resource", "peak_memory_mib (and in 1 more places). Correct"],
        ),
        (lambda d: d["fixed"][0]["cost"].update(watts=1.0), ["fixed.0.cost.watts: 'watts' is no resource"]),
        (lambda d: d["layers"][1]["per_group"].pop("params"), ["layer 'layer1' states madds", "same resources"]),
        (lambda d: d["fixed"][0]["cost"].pop("params"), ["fixed part 'stem' states madds", "same resources"]),
        (lambda d: [layer.update(per_group={}) for layer in d["layers"]], ["states no cost"]),
        (lambda d: d["fixed"][1].update(tasks=["depth"]), ["names ['depth'], which are not tasks"]),
        (lambda d: d["fixed"][1].update(tasks=["task0", "task1"]), ["exactly one task"]),
        (lambda d: d.update(tasks=["a", "a"]), ["['a'] named more than once"]),
        (lambda d: d.update(tasks=[]), ["tasks"]),
        (lambda d: d["layers"][1].update(name="layer0"), ["['layer0'] named more than once"]),
        (lambda d: d.update(layers=[]), ["layers"]),
        (lambda d: d.update(colour="red"), ["colour: a table has no such key"]),
        (
            lambda d: d.update(depends_on="moon"),
            ["nano.json: depends_on: found 'moon', expected one of groups_proportional, group_count, partition, or an"],
        ),
        (lambda d: d.update(depends_on=["partition"]), ["depends_on: found ['partition'], expected one of"]),
        (
            lambda d: d.update(depends_on={"watts": "group_count"}),
            ["nano.json: depends_on.watts: 'watts' is no resource known here; known: madds"],
        ),
        (
            lambda d: d.update(depends_on={"madds": "moon", "params": "partition"}),
            ["nano.json: depends_on.madds: found 'moon', expected one of groups_proportional, group_count, partition."],
        ),
        (
            lambda d: [d.pop("depends_on"), *(x.update(per_count=x.pop("per_group")) for x in counts(d))],
            [
                "madds depends on groups_proportional (the default, as depends_on is missing)",
                '"madds": "group_count"',
            ],
        ),
        (lambda d: d.update(input_size=[0, 5]), ["input_size.0"]),
    ],
)
def test_a_broken_table_is_refused_with_place_and_rule(
    table: CostTable, change: Callable[[Any], object], words: list[str]
) -> None:
    with pytest.raises(CostError) as caught:
        CostTable.from_json(broken(table, change), where="nano.json")
    for word in ["nano.json", *words]:
        assert word in str(caught.value)
    profile_again = "bmtas profile" in str(caught.value)
    assert profile_again == ("found schema_version" in str(caught.value) and "newer" not in str(caught.value))
    assert "literal[" not in str(caught.value)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(CostError, match=r"nano\.json: not JSON"):
        CostTable.from_json("{", where="nano.json")
    with pytest.raises(CostError, match="found list, expected the JSON object"):
        CostTable.from_json("[]")
    with pytest.raises(CostError, match="not JSON"):
        CostTable.from_json(b"\xff\xfe\x00")


def test_a_table_cannot_be_changed(table: CostTable) -> None:
    with pytest.raises(ValidationError):
        table.backbone = "other"  # type: ignore[misc]


def test_the_cost_of_one_layer(table: CostTable, make_general_table: MakeTable) -> None:
    assert table.layer_cost(1, 3, Resource.MADDS) == 600
    other = make_general_table(3, latency=np.array([[1.0, 2, 4], [3, 5, 6]]), memory=np.arange(10.0).reshape(2, 5))
    assert other.layer_cost(1, 2, Resource.LATENCY_MS) == 5
    assert other.layer_cost(1, ((0, 2), (1,)), Resource.PEAK_MEMORY_MIB) == 7  # the third of five groupings
    assert other.layer_cost(1, 3, Resource.PEAK_MEMORY_MIB) == 9


# --- joining

MS, MIB = Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB


def measured(table: CostTable, **changes: Any) -> CostTable:
    """Return a table of the same network with a latency alone: 1, 1.5 and 1.75 ms with 1, 2, 3 groups, 0.5 fixed."""
    fields: dict[str, Any] = {
        "backbone": table.backbone,
        "tasks": table.tasks,
        "input_size": table.input_size,
        "batch": table.batch,
        "depends_on": "group_count",
        "layers": [LayerCost(name=layer.name, per_count={MS: [1.0, 1.5, 1.75]}) for layer in table.layers],
        "fixed": [FixedCost(name=p.name, shared=p.shared, tasks=p.tasks, cost={MS: 0.5}) for p in table.fixed],
        "provenance": {"device": "a board"},
    }
    return CostTable(**{**fields, **changes})


def test_a_joined_table_knows_the_resources_of_both(table: CostTable) -> None:
    joined = join_tables(table, measured(table), "board.json")
    assert joined.resources() == (Resource.MADDS, Resource.PARAMS, MS)
    assert [joined.dependence(r) for r in joined.resources()] == ["groups_proportional"] * 2 + ["group_count"]
    for resource in table.resources():
        assert joined.architecture_cost([1, 2], resource) == table.architecture_cost([1, 2], resource)
    assert joined.architecture_cost([1, 2], MS) == 1 + 1.5 + 4 * 0.5
    assert joined.provenance == {"counter": "made up", "joined device": "a board"}
    assert CostTable.from_json(joined.to_json()) == joined
    assert table.resources() == (Resource.MADDS, Resource.PARAMS)  # what was joined to is as it was


def test_tasks_in_another_order_are_joined_by_their_names(make_general_table: MakeTable) -> None:
    costs = np.arange(10.0).reshape(2, 5)
    table = make_general_table(3, latency=costs)
    turned = make_general_table(3, latency=np.ones((2, 3)), memory=costs).subset(["t2", "t0", "t1"])
    other = turned.model_copy(
        update={
            "depends_on": {MIB: "partition"},
            "layers": [LayerCost(name=x.name, per_partition={MIB: x.per_partition[MIB]}) for x in turned.layers],
            "fixed": [part.model_copy(update={"cost": {MIB: 0.5}}) for part in turned.fixed],
        }
    )
    joined = join_tables(table, other, "memory.json")
    assert joined.tasks == ["t0", "t1", "t2"]
    for grouping in (((0, 1), (2,)), ((0, 2), (1,)), ((0,), (1, 2))):
        found = joined.architecture_cost([((0, 1, 2),), grouping], MIB)
        assert found == table.layer_cost(1, grouping, MS)  # the same numbers by the same names


def test_a_resource_of_both_is_joined_if_it_is_equal(table: CostTable) -> None:
    assert join_tables(table, table, "again.json").layers == table.layers
    both = join_tables(table, measured(table), "board.json")
    assert join_tables(both, measured(table), "board.json").layers == both.layers
    assert join_tables(table, both, "both.json").layers == both.layers  # a counted table with a column more


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet50"}, ["backbone resnet50", "backbone toy", "measure again"]),
        ({"tasks": ["task0", "task1", "depth"], "fixed": []}, ["'depth'", "'task2'"]),
        ({"input_size": (96, 64)}, ["input size", "(96, 64)", "(64, 96)"]),
        ({"batch": 2}, ["batch 2", "batch 1"]),
        (
            {"layers": [LayerCost(name="layer0", per_count={MS: [1, 1, 1]})]},
            ["layers: ['layer1'] of the table it is joined to are missing;"],
        ),
        (
            {"layers": [LayerCost(name=f"layer{i}", per_count={MS: [1, 1, 1]}) for i in (0, 9)]},
            ["layers: found ['layer9'], which the table it is joined to does not have and ['layer1'] of the table"],
        ),
        (
            {"layers": [LayerCost(name=f"layer{i}", per_count={MS: [1, 1, 1]}) for i in (1, 0)]},
            ["found ['layer1', 'layer0'] in the place of ['layer0', 'layer1']", "`bmtas profile --json`"],
        ),
        ({"fixed": []}, ["fixed parts: ['head task0', 'head task1', 'head task2', 'stem'] of the table"]),
    ],
)
def test_a_table_of_another_network_is_not_joined(table: CostTable, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CostError) as caught:
        join_tables(table, measured(table, **changes), "board.json")
    for word in ["board.json: ", "both tables must be of the same network", *words]:
        assert word in str(caught.value)


def test_a_part_that_is_shared_otherwise_is_not_joined(table: CostTable) -> None:
    fixed = [part.model_copy(update={"cost": {MS: 0.5}}) for part in table.fixed]
    fixed[0] = fixed[0].model_copy(update={"tasks": ["task0"]})
    with pytest.raises(CostError, match=r"use of 'stem': shared by task0, but .* shared by task0, task1, task2"):
        join_tables(table, measured(table, fixed=fixed), "board.json")
    # No names stand for all of them.
    fixed[0] = fixed[0].model_copy(update={"tasks": []})
    assert join_tables(table, measured(table, fixed=fixed), "board.json").resources()[-1] == MS


def test_a_resource_that_both_state_differently_is_refused(make_table: MakeTable, table: CostTable) -> None:
    other = make_table(3, madds=[100, 201], params=[1, 2])
    with pytest.raises(CostError, match=r"board\.json: layer1 costs 201.0 in madds there and 200.0 .* leave madds out"):
        join_tables(table, other, "board.json")
    fixed = [part.model_copy(update={"cost": {r: c + 1 for r, c in part.cost.items()}}) for part in table.fixed]
    with pytest.raises(CostError, match=r"stem costs 8.0 in madds there and 7.0"):
        join_tables(table, table.model_copy(update={"fixed": fixed}), "board.json")


def test_a_resource_that_depends_on_something_else_is_refused(make_general_table: MakeTable) -> None:
    counts = make_general_table(3, latency=np.ones((2, 3)))
    with pytest.raises(CostError, match="latency_ms depends on partition there and on group_count"):
        join_tables(counts, make_general_table(3, latency=np.ones((2, 5))), "board.json")
    with pytest.raises(CostError, match=r"layer1 costs \[1.0, 1.0, 2.0\] in latency_ms there"):
        join_tables(counts, make_general_table(3, latency=np.array([[1.0, 1, 1], [1, 1, 2]])), "board.json")


def test_tables_stay_equal_and_copies_compute_anew(make_general_table: Callable[..., CostTable]) -> None:
    latency = np.array([[1.0, 2.5, 3.0], [2.0, 2.5, 7.0]])
    one, other = make_general_table(3, latency), make_general_table(3, latency)
    for table in (one, other):
        partition_costs(table, Resource.LATENCY_MS)
    assert one == other
    assert one != make_general_table(3, latency + 1)
    tenfold = one.model_copy(
        update={
            "layers": [
                layer.model_copy(update={"per_count": {Resource.LATENCY_MS: [10 * c for c in costs]}})
                for layer, costs in zip(one.layers, latency.tolist(), strict=True)
            ]
        }
    )
    assert partition_costs(tenfold, Resource.LATENCY_MS)[0].tolist() == [10, 25, 25, 25, 30]
    assert one != tenfold

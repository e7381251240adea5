"""Architectures: canonical form, the rule of refinement, and the JSON that comes from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import Architecture, BranchedArchitecture, WiredArchitecture, tree_of
from bmtas.errors import UsageError


def tree(*groupings: tuple[tuple[str, ...], ...], tasks: tuple[str, ...] = ("a", "b", "c")) -> Architecture:
    return BranchedArchitecture(backbone="mobilenet_v2", tasks=tasks, groupings=groupings)


def good() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "method": "branched",
        "backbone": "mobilenet_v2",
        "tasks": ["a", "b"],
        "shared_stem": True,
        "groupings": [[["a", "b"]], [["a"], ["b"]]],
    }


def test_blocks_are_put_into_the_order_of_the_tasks() -> None:
    assert tree((("c",), ("b", "a"))).groupings == ((("a", "b"), ("c",)),)
    assert tree((("c",), ("b", "a"))) == tree((("a", "b"), ("c",)))


def test_shared_and_separate_networks() -> None:
    shared = BranchedArchitecture.shared("resnet50", ["a", "b"], 3)
    assert shared.groupings == ((("a", "b"),),) * 3
    assert shared.shared_stem
    separate = BranchedArchitecture.separate("resnet50", ["a", "b"], 3)
    assert separate.groupings == ((("a",), ("b",)),) * 3
    assert not separate.shared_stem


def test_counts_of_groups_and_shared_depths() -> None:
    architecture = tree((("a", "b", "c"),), (("a", "b"), ("c",)), (("a", "b"), ("c",)), (("a",), ("b",), ("c",)))
    assert architecture.group_counts == (1, 2, 2, 3)
    assert architecture.shared_depth("a", "b") == architecture.shared_depth("b", "a") == 3
    assert architecture.shared_depth("a", "c") == 1


def test_tasks_that_have_parted_never_join_again() -> None:
    with pytest.raises(UsageError, match=r"layer 1 joins a\+b.*parted"):
        tree((("a",), ("b", "c")), (("a", "b"), ("c",)))


def test_without_a_shared_stem_no_layer_is_shared() -> None:
    with pytest.raises(UsageError, match=r"layer 0 joins a\+b"):
        BranchedArchitecture(backbone="x", tasks=("a", "b"), groupings=((("a", "b"),),), shared_stem=False)


@pytest.mark.parametrize(
    "grouping", [(("a", "b"),), (("a", "b", "c", "d"),), (("a", "b"), ("b", "c")), (("a", "a", "b", "c"),), ()]
)
def test_a_grouping_holds_every_task_once(grouping: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(UsageError, match=r"layer 0 .* exactly once"):
        tree(grouping)


@pytest.mark.parametrize("tasks", [(), ("a", "a")])
def test_tasks_are_named_once_and_there_is_one(tasks: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="once each"):
        BranchedArchitecture(backbone="x", tasks=tasks, groupings=())


def test_json_and_back(tmp_path: Path) -> None:
    architecture = tree((("a", "b", "c"),), (("a", "c"), ("b",)))
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(architecture.to_json()), encoding="utf-8")
    assert Architecture.read(path) == architecture
    separate = BranchedArchitecture.separate("x", ["a", "b"], 2)
    assert Architecture.from_json(json.loads(json.dumps(separate.to_json()))) == separate


def test_the_json_form_is_the_documented_one() -> None:
    architecture = BranchedArchitecture(
        backbone="mobilenet_v2", tasks=("a", "b"), groupings=((("a", "b"),), (("a",), ("b",)))
    )
    assert architecture.to_json() == good()


@pytest.mark.parametrize("field", ["backbone", "tasks", "shared_stem", "groupings", "method"])
def test_a_missing_field_is_named_with_the_file(field: str) -> None:
    data = good()
    del data[field]
    with pytest.raises(UsageError, match=rf"here\.json: not an architecture.*{field}"):
        Architecture.from_json(data, "here.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tasks", None),
        ("tasks", 3),
        ("tasks", [["a"], ["b"]]),
        ("tasks", [1, 2]),
        ("tasks", "ab"),
        ("groupings", None),
        ("groupings", [["a", "b"], 1]),
        ("groupings", ["ab", "ab"]),
        ("groupings", [["ab"], ["a", "b"]]),
        ("groupings", [[[1, 2]], [["a"], ["b"]]]),
        ("shared_stem", "false"),
    ],
)
def test_a_field_of_another_form_is_refused(field: str, value: object) -> None:
    data = good() | {field: value}
    if value == [1, 2]:
        data["groupings"] = [[[1, 2]], [[1], [2]]]
    with pytest.raises(UsageError):
        Architecture.from_json(data)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(good() | {"schema_version": 2}), encoding="utf-8")
    with pytest.raises(UsageError, match="upgrade bmtas"):
        Architecture.read(path)


def wired() -> dict[str, Any]:
    """Two tasks read one stem; the second adds two layers of it."""
    return {
        "schema_version": 1,
        "method": "dynamic",
        "backbone": "tiny",
        "tasks": ["a", "b"],
        "nodes": [
            ["stem", "shared", []],
            ["layers.00", "shared", [0]],
            ["heads.a", "a", [1, 0]],
            ["layers.01", "b", [0]],
            ["sums.2", "x.b", [1, 3]],
            ["heads.b", "b", [4, 0]],
        ],
        "outputs": {"a": 2, "b": 5},
    }


def test_a_wired_architecture_is_its_graph() -> None:
    architecture = Architecture.from_json(wired())
    assert isinstance(architecture, WiredArchitecture)
    graph = architecture.graph(0)
    assert {node.name: (node.inputs, node.tasks) for node in graph.nodes} == {
        "stem.shared": (("image",), ("a", "b")),
        "layers.00.shared": (("stem.shared",), ("a", "b")),
        "heads.a": (("layers.00.shared", "stem.shared"), ("a",)),
        "layers.01.b": (("stem.shared",), ("b",)),
        "sums.2.x.b": (("layers.00.shared", "layers.01.b"), ("b",)),
        "heads.b": (("sums.2.x.b", "stem.shared"), ("b",)),
    }
    assert architecture.to_json() == wired()
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_a_subset_of_a_wired_architecture_is_what_it_needs() -> None:
    alone = Architecture.from_json(wired()).subset(["a"])
    assert [node[0] for node in alone.to_json()["nodes"]] == ["stem", "layers.00", "heads.a"]
    with pytest.raises(UsageError, match="unknown task 'c'"):
        alone.subset(["c"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": [["stem", "shared", [0]], ["heads.a", "a", [0]]]}, "only those before it"),
        ({"outputs": {"a": 2}}, "one of its 6 nodes for each of its tasks"),
        ({"outputs": {"a": 2, "b": 6}}, "one of its 6 nodes for each of its tasks"),
        ({"nodes": [["stem", "shared"]]}, "not an architecture"),
        ({"nodes": [["stem", 1, []]]}, "not an architecture"),
        ({"tasks": ["a", "a"]}, "must"),
    ],
)
def test_a_broken_wired_architecture_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Architecture.from_json({**wired(), **change})


def test_what_needs_a_tree_refuses_what_is_none() -> None:
    with pytest.raises(UsageError, match="--method dynamic is no tree"):
        tree_of(Architecture.from_json(wired()))

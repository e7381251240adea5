"""Architectures: canonical form, the rule of refinement, and the JSON that comes from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import Architecture, BranchedArchitecture
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

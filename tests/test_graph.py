"""The merged graph: what is one node, in which order, and what a subset of the tasks needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, combinations

import pytest

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.graph import IMAGE, Expression, MergedGraph, Node, head_name, layer_name, merge

TASKS = ("semseg", "parts", "normals", "depth")
Draw = Callable[[int, str, tuple[str, ...], int], Architecture]


def head(task: str, *inputs: Expression) -> Expression:
    return Expression(head_name(task), task, inputs)


def tree() -> Architecture:
    """Three tasks, four layers: together, together, c parts, a and b part."""
    groupings = (
        (("a", "b", "c"),),
        (("a", "b", "c"),),
        (("a", "b"), ("c",)),
        (("a",), ("b",), ("c",)),
    )
    return BranchedArchitecture(backbone="mobilenet_v2", tasks=("a", "b", "c"), groupings=groupings)


def reachable(graph: MergedGraph, tasks: Iterable[str]) -> set[str]:
    nodes = {node.name: node for node in graph.nodes}
    found: set[str] = set()
    waiting = [graph.outputs[task] for task in tasks]
    while waiting:
        name = waiting.pop()
        if name not in found and name != IMAGE:
            found.add(name)
            waiting += nodes[name].inputs
    return found


def test_names_of_parameters() -> None:
    assert layer_name(7) == "layers.07"
    assert Expression("layers.07", "semseg+parts").module == "layers.07.semseg+parts"
    assert head("semseg").module == "heads.semseg"
    assert Expression("stem", "semseg").module == "stem.semseg"


def test_equal_operation_weights_and_inputs_are_one_node() -> None:
    graph = merge(
        {
            "a": head("a", Expression("layers.00", "a+b", (Expression("stem", "a+b"),))),
            "b": head("b", Expression("layers.00", "a+b", (Expression("stem", "a+b"),))),
        }
    )
    assert graph.nodes == (
        Node("stem.a+b", "stem", "stem.a+b", (IMAGE,), ("a", "b")),
        Node("layers.00.a+b", "layers.00", "layers.00.a+b", ("stem.a+b",), ("a", "b")),
        Node("heads.a", "heads.a", "heads.a", ("layers.00.a+b",), ("a",)),
        Node("heads.b", "heads.b", "heads.b", ("layers.00.a+b",), ("b",)),
    )
    assert graph.outputs == {"a": "heads.a", "b": "heads.b"}
    assert graph.tasks == ("a", "b")


def test_equal_weights_on_other_inputs_are_another_node_with_the_same_parameters() -> None:
    graph = merge(
        {task: head(task, Expression("layers.00", "both", (Expression("stem", task),))) for task in ("a", "b", "c")}
    )
    applied = [node for node in graph.nodes if node.operation == "layers.00"]
    assert [node.name for node in applied] == ["layers.00.both", "layers.00.both@2", "layers.00.both@3"]
    assert [node.inputs for node in applied] == [("stem.a",), ("stem.b",), ("stem.c",)]
    assert {node.module for node in applied} == {"layers.00.both"}
    assert list(graph.modules()).count("layers.00.both") == 1
    # stems 3 x 1, layers 3 x 10, heads 3 x 100; the layer's parameters count once
    cost = {"stem": 1.0, "layers.00": 10.0, "heads.a": 100.0, "heads.b": 100.0, "heads.c": 100.0}
    assert graph.madds(cost.__getitem__) == 333
    assert graph.params(cost.__getitem__) == 313


def test_other_weights_are_another_node() -> None:
    stem = Expression("stem", "a+b")
    graph = merge({t: head(t, Expression("layers.00", t, (stem,))) for t in ("a", "b")})
    assert [node.name for node in graph.nodes] == ["stem.a+b", "layers.00.a", "heads.a", "layers.00.b", "heads.b"]


def test_another_order_of_the_inputs_is_another_node() -> None:
    x, y = Expression("stem", "x"), Expression("stem", "y")
    graph = merge(
        {"a": head("a", Expression("layers.00", "w", (x, y))), "b": head("b", Expression("layers.00", "w", (y, x)))}
    )
    inputs = [node.inputs for node in graph.nodes if node.operation == "layers.00"]
    assert inputs == [("stem.x", "stem.y"), ("stem.y", "stem.x")]


def test_two_tasks_with_one_output_node() -> None:
    whole = Expression("stem", "w")
    graph = merge({"a": whole, "b": Expression("stem", "w")})
    assert graph.nodes == (Node("stem.w", "stem", "stem.w", (IMAGE,), ("a", "b")),)


def test_a_deep_graph_whose_paths_are_many_merges_fast() -> None:
    # 60 layers that each read the one before twice: 2^60 paths, 61 nodes
    x = Expression("stem", "a")
    for layer in range(60):
        x = Expression(layer_name(layer), "a", (x, x))
    assert len(merge({"a": x}).nodes) == 61


def test_number_of_nodes() -> None:
    tasks = ("a", "b", "c")
    assert len(BranchedArchitecture.shared("mobilenet_v2", tasks, 4).graph(2).nodes) == 1 + 4 + 3
    assert len(BranchedArchitecture.separate("mobilenet_v2", tasks, 4).graph(2).nodes) == 3 * (1 + 4 + 1)
    assert len(tree().graph(2).nodes) == 1 + (1 + 1 + 2 + 3) + 3


def test_the_graph_of_a_tree() -> None:
    graph = tree().graph(1)
    assert {node.name: node.inputs for node in graph.nodes} == {
        "stem.a+b+c": (IMAGE,),
        "layers.00.a+b+c": ("stem.a+b+c",),
        "layers.01.a+b+c": ("layers.00.a+b+c",),
        "layers.02.a+b": ("layers.01.a+b+c",),
        "layers.02.c": ("layers.01.a+b+c",),
        "layers.03.a": ("layers.02.a+b",),
        "layers.03.b": ("layers.02.a+b",),
        "layers.03.c": ("layers.02.c",),
        "heads.a": ("layers.03.a", "layers.01.a+b+c"),
        "heads.b": ("layers.03.b", "layers.01.a+b+c"),
        "heads.c": ("layers.03.c", "layers.01.a+b+c"),
    }
    tapped_later = {node.name: node.inputs for node in tree().graph(2).nodes}
    assert tapped_later["heads.a"] == ("layers.03.a", "layers.02.a+b")
    assert tapped_later["heads.c"] == ("layers.03.c", "layers.02.c")


def test_layer_by_layer_all_groups_of_a_layer_come_before_the_next_one() -> None:
    graph = tree().graph(1)
    assert [node.name for node in graph.layer_by_layer()] == [
        *("stem.a+b+c", "layers.00.a+b+c", "layers.01.a+b+c", "layers.02.a+b", "layers.02.c"),
        *("layers.03.a", "layers.03.b", "layers.03.c", "heads.a", "heads.b", "heads.c"),
    ]
    # Parameters are made task by task: the order in which a seed gives them their values.
    assert [node.name for node in graph.nodes] == [
        *("stem.a+b+c", "layers.00.a+b+c", "layers.01.a+b+c", "layers.02.a+b", "layers.03.a", "heads.a"),
        *("layers.03.b", "heads.b", "layers.02.c", "layers.03.c", "heads.c"),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_layer_by_layer_is_an_order_of_the_same_nodes_for_subsets_too(random_architecture: Draw, seed: int) -> None:
    graph = random_architecture(seed, "mobilenet_v2", TASKS, 12).graph(2)
    whole = graph.layer_by_layer()
    assert sorted(node.name for node in whole) == sorted(node.name for node in graph.nodes)
    seen = {IMAGE}
    for node in whole:
        assert seen.issuperset(node.inputs)
        seen.add(node.name)
    part = graph.subset(TASKS[:2])
    kept = {node.name for node in part.nodes}
    assert [n.name for n in part.layer_by_layer()] == [n.name for n in whole if n.name in kept]


def test_a_graph_knows_the_tasks_of_every_node() -> None:
    users = {node.name: set(node.tasks) for node in tree().graph(2).nodes}
    assert users["stem.a+b+c"] == users["layers.01.a+b+c"] == {"a", "b", "c"}
    assert users["layers.02.a+b"] == {"a", "b"}
    assert users["layers.02.c"] == users["heads.c"] == {"c"}


@pytest.mark.parametrize("seed", range(5))
def test_every_node_comes_after_its_inputs(random_architecture: Draw, seed: int) -> None:
    graph = random_architecture(seed, "mobilenet_v2", TASKS, 12).graph(2)
    seen = {IMAGE}
    for node in graph.nodes:
        assert seen.issuperset(node.inputs)
        assert node.name not in seen
        seen.add(node.name)


@pytest.mark.parametrize("seed", range(5))
def test_a_subset_is_what_its_outputs_reach(random_architecture: Draw, seed: int) -> None:
    graph = random_architecture(seed, "mobilenet_v2", TASKS, 12).graph(2)
    for kept in chain.from_iterable(combinations(TASKS, n) for n in range(1, 5)):
        part = graph.subset(kept)
        assert {node.name for node in part.nodes} == reachable(graph, kept)
        assert [n.name for n in part.nodes] == [n.name for n in graph.nodes if n.name in reachable(graph, kept)]
        assert all(set(node.tasks) <= set(kept) and node.tasks for node in part.nodes)
        assert part.outputs == {task: graph.outputs[task] for task in kept}


def test_a_subset_of_shared_weights_keeps_the_name_of_its_node() -> None:
    graph = merge({t: head(t, Expression("layers.00", "both", (Expression("stem", t),))) for t in ("a", "b")})
    assert [node.name for node in graph.subset(["b"]).nodes] == ["stem.b", "layers.00.both@2", "heads.b"]


@pytest.mark.parametrize("tasks", [("stem", "b"), ("b", "stem"), ("07", "b"), ("b", "07"), ("heads", "layers")])
def test_no_parameters_live_inside_others_whatever_the_tasks_are_called(tasks: tuple[str, ...]) -> None:
    modules = sorted(BranchedArchitecture.separate("mobilenet_v2", tasks, 18).graph(2).modules())
    assert len(modules) == 2 * (1 + 18 + 1)
    assert [(a, b) for a in modules for b in modules if b.startswith(a + ".")] == []

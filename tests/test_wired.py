"""What a network that is no tree computes for whom, and the line that says how it was derived."""

from __future__ import annotations

import pytest

from bmtas.architecture import Architecture, WiredArchitecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.graph import Expression
from bmtas.wired import Computed, computed_for, derivation_text
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource

TABLE = CostTable(
    backbone="tiny",
    tasks=["a", "b"],
    input_size=(8, 8),
    batch=1,
    layers=[LayerCost(name="layers.00", per_group={Resource.MADDS: 10, Resource.PARAMS: 1})],
    fixed=[
        FixedCost(name="stem", shared=True, tasks=["a", "b"], cost={Resource.MADDS: 1, Resource.PARAMS: 1}),
        FixedCost(name="heads.a", shared=False, tasks=["a"], cost={Resource.MADDS: 100, Resource.PARAMS: 1}),
        FixedCost(name="heads.b", shared=False, tasks=["b"], cost={Resource.MADDS: 200, Resource.PARAMS: 1}),
    ],
    provenance={},
)


def network() -> WiredArchitecture:
    """One stem; a computes a layer, b the same layer with the same weights twice."""
    stem = Expression("stem", "a+b")
    once = Expression("layers.00", "all", (stem,))
    twice = Expression("layers.00", "all", (Expression("layers.00", "own", (stem,)),))
    return WiredArchitecture.of(
        "tiny", "dynamic", {"a": Expression("heads.a", "a", (once,)), "b": Expression("heads.b", "b", (twice,))}
    )


def test_operations_are_counted_for_the_tasks_that_need_them() -> None:
    # a: the layer (10) and a head (100); b: the layer with weights of its own (10), then with those of a (10), and a head (200).
    assert computed_for(network(), TABLE) == [
        Computed(("a", "b"), 1, 1.0, 0),
        Computed(("a",), 2, 110.0, 1),
        Computed(("b",), 3, 220.0, 1),
    ]


def test_each_way_of_deriving_is_told_with_what_it_left_of_the_budget() -> None:
    edge = {"kept": True, "dropped": False}
    edges = {"edges": [edge, {"kept": False, "dropped": True}, {"kept": False, "dropped": False}], "entropy": 0.125}
    told = derivation_text(Method.MTL_NAS, edges)
    assert told.startswith(
        "1 of 3 edges between tasks are kept; 1 more were wanted, but are over the budget; mean entropy 0.12"
    )
    policies = [{"within": True}, {"within": False}, {"within": True}]
    told = derivation_text(Method.AUTOMTL, {"policies": policies, "repaired": False})
    assert "of 3 sampled policies, 2 of them within" in told
    assert "changed until it is" in derivation_text(Method.AUTOMTL, {"policies": policies[1:2], "repaired": True})
    topologies = {"a": {"arcs": [1, 2], "flow": 0.9, "agreed": False}, "b": {"arcs": [1], "flow": 0.5, "agreed": True}}
    told = derivation_text(Method.DYNAMIC, {"topologies": topologies})
    assert "a 2 (90%), b 1 (50%); b took over" in told
    assert derivation_text(Method.NDDR_CNN, {}) == ""


def test_outputs_that_are_not_the_tasks_heads_are_refused() -> None:
    stored = network().to_json()
    stored["outputs"] = {"a": stored["outputs"]["b"], "b": stored["outputs"]["a"]}
    with pytest.raises(UsageError, match=r"output of a is node \d+, heads.b, but must be heads.a"):
        Architecture.from_json(stored)

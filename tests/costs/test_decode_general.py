"""Decoding with tables of all kinds, held to exhaustive search over all architectures that draws lead to."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from costs import (
    Budget,
    BudgetBelowReach,
    CostTable,
    Resource,
    best_architecture,
    budget_range,
    pareto_front,
    parse_budget,
)
from costs.partitions import bell, partition_of, refines

Floats = npt.NDArray[np.float64]
Draw = Callable[..., Floats]
MakeTable = Callable[..., CostTable]
Architecture = tuple[tuple[tuple[int, ...], ...], ...]
M, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB


def table_of(make: MakeTable, kind: str, rng: np.random.Generator, tasks: int, layers: int) -> CostTable:
    """A table in which no cost falls with finer groupings (`rising`), or one in no order at all (`wild`)."""
    counts = rng.integers(1, 40, size=(layers, tasks)).astype(float)
    parts = rng.uniform(1, 40, size=(layers, bell(tasks)))
    if kind == "rising":
        return make(tasks, latency=np.cumsum(counts, axis=1), memory=np.cumsum(counts[::-1], axis=1))
    return (
        make(tasks, latency=parts, memory=parts[::-1].copy())
        if kind == "parts"
        else make(tasks, counts, counts[::-1].copy())
    )


def costs_of(table: CostTable, architecture: Architecture, resource: Resource) -> float:
    """The cost of an architecture straight from the fields of the table: sum or maximum, layer by layer."""
    terms = [part.cost[resource] for part in table.fixed]
    for layer, grouping in zip(table.layers, architecture, strict=True):
        if resource in layer.per_group:
            terms.append(layer.per_group[resource] * len(grouping))
        elif resource in layer.per_count:
            terms.append(layer.per_count[resource][len(grouping) - 1])
        else:
            terms.append(layer.per_partition[resource]["|".join("+".join(f"t{t}" for t in b) for b in grouping)])
    return max(terms) if resource is MIB else math.fsum(terms)


@pytest.mark.parametrize("kind", ["rising", "counts", "parts"])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 20.0])
@pytest.mark.parametrize(
    ("tasks", "layers", "candidates"), [(2, 3, 3), (3, 4, 3), (4, 3, 3), pytest.param(4, 3, 4, marks=pytest.mark.slow)]
)
def test_the_best_is_that_of_exhaustive_search_at_every_budget(
    make_general_table: MakeTable,
    draw_probs: Draw,
    enumerate_draws: Callable[..., Any],
    tasks: int,
    layers: int,
    candidates: int,
    sharpness: float,
    kind: str,
) -> None:
    rng = np.random.default_rng(tasks)
    table = table_of(make_general_table, kind, rng, tasks, layers)
    probs = draw_probs(rng, layers, tasks, sharpness, candidates)
    listed = enumerate_draws(probs).architectures()
    for resource in (M, MS, MIB):
        cost = {a: costs_of(table, a, resource) for a in listed}
        front = pareto_front(probs, table, resource)
        expected = []
        best = 0.0
        for limit in sorted(set(cost.values())):
            probable = max(p for a, p in listed.items() if cost[a] <= limit)
            if probable > best * (1 + 1e-9):
                best = probable
                expected.append((limit, math.log(probable)))
            found = best_architecture(probs, table, [Budget(resource, limit, "")])
            assert found.exact
            assert math.exp(found.log_probability) == pytest.approx(probable, rel=1e-8)
            assert listed[found.groupings] == pytest.approx(probable, rel=1e-8)
            assert found.cost[resource] == cost[found.groupings] <= limit
        if tasks == candidates:  # otherwise some architectures are impossible, and those the enumeration lacks
            assert budget_range(table, resource) == (min(cost.values()), max(cost.values()))
            assert [entry.cost[resource] for entry in front] == [c for c, _ in expected]
            np.testing.assert_allclose([entry.log_probability for entry in front], [p for _, p in expected], rtol=1e-8)


@pytest.mark.parametrize("kind", ["rising", "counts", "parts"])
def test_several_budgets_of_all_kinds_at_once(
    make_general_table: MakeTable, draw_probs: Draw, enumerate_draws: Callable[..., Any], kind: str
) -> None:
    rng = np.random.default_rng(3)
    unreachable = 0
    for _ in range(25):
        table = table_of(make_general_table, kind, rng, 3, 3)
        probs = draw_probs(rng, 3, 3, float(rng.choice([0.5, 4.0])))
        listed = enumerate_draws(probs).architectures()
        limits = {r: float(rng.uniform(*budget_range(table, r))) for r in (M, MS, MIB)}
        fitting = [p for a, p in listed.items() if all(costs_of(table, a, r) <= v for r, v in limits.items())]
        budgets = [Budget(r, v, "") for r, v in limits.items()]
        if not fitting:
            unreachable += 1
            with pytest.raises(BudgetBelowReach, match="no architecture is within all budgets together"):
                best_architecture(probs, table, budgets)
            continue
        found = best_architecture(probs, table, budgets)
        assert found.exact
        assert math.exp(found.log_probability) == pytest.approx(max(fitting), rel=1e-8)
        assert all(costs_of(table, found.groupings, r) <= v for r, v in limits.items())
    assert (unreachable == 0) == (kind == "rising")


def test_additive_and_general_programme_agree(make_general_table: MakeTable, draw_probs: Draw) -> None:
    # Latency by number of groups that is as proportional as MAdds: the same question to both programmes.
    rng = np.random.default_rng(9)
    for tasks, layers in ((5, 18), (6, 6)):
        latency = np.tile(np.arange(1.0, tasks + 1), (layers, 1))
        table = make_general_table(tasks, latency=latency, madds=[1.0] * layers)
        for sharpness in (3.0, 20.0):
            probs = draw_probs(rng, layers, tasks, sharpness)
            low, high = budget_range(table, M)
            for share in (0.1, 0.5, 0.8):
                limit = low + share * (high - low)
                one, other = (best_architecture(probs, table, [Budget(r, limit, "")]) for r in (M, MS))
                assert one.exact
                assert other.exact
                assert one.log_probability == pytest.approx(other.log_probability, rel=1e-9)
                assert one.cost[M] == other.cost[MS]


def keep_budgets(make: MakeTable, draw: Draw, cases: int, tasks: int, layers: int) -> None:
    rng = np.random.default_rng(cases)
    for case in range(cases):
        table = table_of(make, "rising", rng, tasks, layers)
        chosen = [(M,), (MS,), (MIB,), (MS, MIB), (M, MS)][case % 5]
        ranges = {r: budget_range(table, r) for r in chosen}
        budgets = [Budget(r, low + float(rng.uniform()) * (high - low), "") for r, (low, high) in ranges.items()]
        found = best_architecture(draw(rng, layers, tasks, float(rng.choice([3.0, 10.0, 1000.0]))), table, budgets)
        before = (2**tasks - 1,)
        for grouping in found.groupings:
            assert refines(partition_of(grouping, tasks), before)
            before = partition_of(grouping, tasks)
        for budget in budgets:
            assert costs_of(table, found.groupings, budget.resource) == found.cost[budget.resource] <= budget.value


def test_no_budget_is_ever_exceeded(make_general_table: MakeTable, draw_probs: Draw) -> None:
    keep_budgets(make_general_table, draw_probs, 50, 5, 18)


@pytest.mark.slow
def test_no_budget_is_ever_exceeded_in_thousands_of_cases(make_general_table: MakeTable, draw_probs: Draw) -> None:
    keep_budgets(make_general_table, draw_probs, 1000, 5, 18)


def test_an_unreachable_budget_names_the_range(make_general_table: MakeTable) -> None:
    table = make_general_table(3, latency=np.array([[5.0, 1, 9], [4, 2, 3]]), memory=np.array([[5.0, 6, 9]] * 2))
    with pytest.raises(BudgetBelowReach, match=r"reachable is 3\.500 ms to 12\.50 ms \(only the stem shared\)"):
        best_architecture(np.full((2, 3, 3), 1 / 3), table, [parse_budget("3ms")])
    with pytest.raises(BudgetBelowReach, match=r"5\.000 MiB \(all layers shared\) to 9\.000 MiB"):
        best_architecture(np.full((2, 3, 3), 1 / 3), table, [parse_budget("4MiB")])

"""Decoding for more than eight tasks, where not all can be looked at: budgets, the width, and the bound on what is lost."""

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from costs import Budget, CostError, CostTable, FixedCost, LayerCost, Resource, best_architecture, budget_range
from costs.partitions import bell, partitions_of, write_key

Floats = npt.NDArray[np.float64]
Draw = Callable[..., Floats]
Grouping = tuple[tuple[int, ...], ...]
M, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB
DEPENDS = {M: "groups_proportional", MS: "group_count", MIB: "group_count"}


def table_for(rng: np.random.Generator, tasks: int, layers: int, *, rising: bool = True) -> CostTable:
    """Multiply-adds per group, latency per number of groups (`rising` or in no order), memory as a peak."""
    latency = rng.uniform(1, 5, (layers, tasks))
    latency = np.cumsum(latency, axis=1) if rising else latency
    memory = np.cumsum(rng.uniform(1, 5, (layers, tasks)), axis=1)
    return CostTable(
        backbone="toy",
        tasks=[f"t{t}" for t in range(tasks)],
        input_size=(8, 8),
        batch=1,
        depends_on=DEPENDS,
        layers=[
            LayerCost(
                name=f"{i}",
                per_group={M: float(rng.integers(1, 50))},
                per_count={MS: latency[i].tolist(), MIB: memory[i].tolist()},
            )
            for i in range(layers)
        ],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost=dict.fromkeys(DEPENDS, 0.3))],
        provenance={},
    )


def all_architectures(probs: Floats) -> dict[tuple[Grouping, ...], float]:
    """Every architecture of two layers of binary candidates that some draw leads to, with its probability."""
    layers, tasks, candidates = probs.shape
    assert (layers, candidates) == (2, 2)
    drawn: list[dict[tuple[int, ...], float]] = []
    for layer in probs:
        found: dict[tuple[int, ...], float] = {}
        for code in range(2**tasks):
            draw = tuple(code >> t & 1 for t in range(tasks))
            pattern = tuple(d ^ draw[0] for d in draw)  # who is with the first task, and who is not
            found[pattern] = found.get(pattern, 0.0) + math.prod(layer[t, d] for t, d in enumerate(draw))
        drawn.append(found)
    listed: dict[tuple[Grouping, ...], float] = {}
    for first, one in drawn[0].items():
        for second, other in drawn[1].items():
            architecture = (blocks(first), blocks(tuple(2 * a + b for a, b in zip(first, second, strict=True))))
            listed[architecture] = listed.get(architecture, 0.0) + one * other
    return listed


def blocks(labels: tuple[int, ...]) -> Grouping:
    """The tasks with equal labels together, by their first task."""
    return tuple(tuple(t for t, b in enumerate(labels) if b == label) for label in dict.fromkeys(labels))


def cost_of(table: CostTable, architecture: tuple[Grouping, ...], resource: Resource) -> float:
    terms = [0.3]
    for layer, grouping in zip(table.layers, architecture, strict=True):
        if resource is M:
            terms.append(len(grouping) * layer.per_group[M])
        else:
            terms.append(layer.per_count[resource][len(grouping) - 1])
    return max(terms) if resource is MIB else math.fsum(terms)


@cache
def listed_for(tasks: int, sharpness: float) -> tuple[Floats, dict[tuple[Grouping, ...], float]]:
    """Random probabilities of two layers and all their architectures, which every test of this size can share."""
    logits = sharpness * np.random.default_rng(tasks).normal(size=(2, tasks, 2))
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return probs, all_architectures(probs)


@pytest.mark.parametrize(
    ("tasks", "rising", "resources"),
    [
        *((9, True, chosen) for chosen in ((M,), (MS,), (MIB,), (M, MS))),
        *(pytest.param(10, True, chosen, marks=pytest.mark.slow) for chosen in ((M,), (MS,), (MIB,), (M, MS))),
        (9, False, (MS,)),
    ],
)
def test_the_gap_bounds_what_a_narrow_beam_loses(tasks: int, rising: bool, resources: tuple[Resource, ...]) -> None:
    table = table_for(np.random.default_rng(tasks), tasks, 2, rising=rising)
    for sharpness, share, width in itertools.product((0.3, 2.0), (0.2, 0.5, 0.9), (1, 256)):
        probs, listed = listed_for(tasks, sharpness)
        limits = {r: (1 - share) * low + share * high for r in resources for low, high in [budget_range(table, r)]}
        fitting = [p for a, p in listed.items() if all(cost_of(table, a, r) <= v for r, v in limits.items())]
        found = best_architecture(probs, table, [Budget(r, v, "") for r, v in limits.items()], width=width)
        assert all(cost_of(table, found.groupings, r) == found.cost[r] <= v for r, v in limits.items())
        if not fitting:  # two candidates make no more than two groups, and fewer may cost more here
            assert found.log_probability == -math.inf
            continue
        best = math.log(max(fitting))
        assert found.log_probability <= best + 1e-9
        assert found.log_probability + found.gap >= best - 1e-9
        if found.exact:
            assert found.log_probability == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("resource", [M, pytest.param(MS, marks=pytest.mark.slow)])
def test_a_wider_beam_finds_more(draw_probs: Draw, resource: Resource) -> None:
    rng = np.random.default_rng(0)
    found: dict[int, list[float]] = {1: [], 4: [], 256: []}
    for _ in range(4):
        table, probs = table_for(rng, 9, 6), draw_probs(rng, 6, 9, 1.5)
        low, high = budget_range(table, resource)
        for width, values in found.items():
            decoded = best_architecture(probs, table, [Budget(resource, low + 0.4 * (high - low), "")], width=width)
            values.append(decoded.log_probability)
    assert sum(found[1]) < sum(found[256])
    assert sum(found[1]) <= sum(found[4]) <= sum(found[256])
    with pytest.raises(CostError, match="found 0, expected 1"):
        best_architecture(probs, table, [Budget(resource, high, "")], width=0)


def test_what_is_excluded_has_no_finite_gap_unless_all_is_excluded(draw_probs: Draw) -> None:
    rng = np.random.default_rng(1)
    table = table_for(rng, 10, 2)
    probs = np.zeros((2, 10, 10))
    probs[:, range(10), range(10)] = 1.0  # certain to be apart from the first layer on
    tight = best_architecture(probs, table, [Budget(MS, budget_range(table, MS)[0], "")])
    assert (tight.log_probability, tight.gap) == (-math.inf, 0.0)  # nothing within the budget is possible
    assert tight.groupings == (blocks((0,) * 10),) * 2
    free = best_architecture(probs, table, [Budget(MS, budget_range(table, MS)[1], "")])
    assert (free.log_probability, free.gap) == (0.0, 0.0)


def test_a_cost_per_partition_of_nine_tasks(draw_probs: Draw) -> None:
    # What a grouping costs is the sum over its blocks of a cost of each, which grows with the block's tasks.
    rng = np.random.default_rng(3)
    names = [f"t{t}" for t in range(9)]
    weights = rng.uniform(1, 5, 9)

    def cost(grouping: Grouping) -> float:
        return math.fsum(3 + max(weights[t] for t in block) for block in grouping)

    keys = {write_key(p, names): cost(tuple(tuple(t for t in range(9) if b >> t & 1) for b in p)) for p in all_of(9)}
    table = CostTable(
        backbone="toy",
        tasks=names,
        input_size=(8, 8),
        batch=1,
        depends_on="partition",
        layers=[LayerCost(name=f"{i}", per_partition={MS: keys}) for i in range(2)],
        fixed=[],
        provenance={},
    )
    probs = draw_probs(rng, 2, 9, 1.0, 2)
    low, high = budget_range(table, MS)
    assert (low, high) == (2 * cost((tuple(range(9)),)), pytest.approx(2 * (27 + weights.sum())))
    limit = low + 0.3 * (high - low)
    best = max(p for a, p in all_architectures(probs).items() if math.fsum(map(cost, a)) <= limit)
    found = best_architecture(probs, table, [Budget(MS, limit, "")])
    assert math.fsum(map(cost, found.groupings)) == pytest.approx(found.cost[MS])
    assert found.cost[MS] <= limit
    assert found.log_probability <= math.log(best) + 1e-9 <= found.log_probability + found.gap + 2e-9


def all_of(tasks: int) -> list[tuple[int, ...]]:
    listed = list(partitions_of(2**tasks - 1))
    assert len(listed) == bell(tasks)
    return listed

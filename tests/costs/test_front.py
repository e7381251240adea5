"""The whole front at once, held to all architectures there are, also those that the distribution excludes."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costs import Budget, CostTable, LayerCost, Resource, best_architecture, budget_range, pareto_front

Floats = npt.NDArray[np.float64]
MakeTable = Callable[..., CostTable]
Grouping = tuple[tuple[int, ...], ...]
M, MS = Resource.MADDS, Resource.LATENCY_MS


def groupings_of(tasks: tuple[int, ...]) -> Iterator[Grouping]:
    """All partitions of some tasks, by where the last one goes."""
    if not tasks:
        yield ()
        return
    for rest in groupings_of(tasks[:-1]):
        for i, block in enumerate(rest):
            yield (*rest[:i], (*block, tasks[-1]), *rest[i + 1 :])
        yield (*rest, (tasks[-1],))


def all_architectures(probs: Floats) -> list[tuple[tuple[Grouping, ...], int, float]]:
    """Every chain of refinements, how many of its splits are impossible, and the log-probability of the others."""
    layers, tasks, candidates = probs.shape

    @cache
    def split(layer: int, parts: Grouping) -> float:
        """How probable it is that a block splits into these parts, draw by draw."""
        members = sorted(t for part in parts for t in part)
        total = 0.0
        for draw in itertools.product(range(candidates), repeat=len(members)):
            taken = dict(zip(members, draw, strict=True))
            if all((taken[a] == taken[b]) == any({a, b} <= set(p) for p in parts) for a in members for b in members):
                total += math.prod(probs[layer, t, taken[t]] for t in members)
        return total

    def grow(layer: int, before: Grouping) -> Iterator[tuple[tuple[Grouping, ...], int, float]]:
        if layer == layers:
            yield (), 0, 0.0
            return
        for ways in itertools.product(*(list(groupings_of(block)) for block in before)):
            chances = [split(layer, parts) for parts in ways]
            impossible = sum(p == 0 for p in chances)
            logs = math.fsum(math.log(p) for p in chances if p > 0)
            grouping = tuple(sorted(part for parts in ways for part in parts))
            for rest, more, log in grow(layer + 1, grouping):
                yield (grouping, *rest), impossible + more, logs + log

    return list(grow(0, (tuple(range(tasks)),)))


@pytest.mark.parametrize("rows", ["one-hot", "two candidates", "mixed"])
@pytest.mark.parametrize("general", [False, True])
def test_the_front_holds_every_reachable_cost_that_buys_something(
    make_table: MakeTable, make_general_table: MakeTable, draw_probs: Callable[..., Floats], rows: str, general: bool
) -> None:
    rng = np.random.default_rng(4)
    probs = draw_probs(rng, 3, 3, 1.0, 2 if rows == "two candidates" else 3)
    if rows != "two candidates":
        places = rng.integers(0, 3, (3, 3))
        hot = np.eye(3)[places]
        probs = hot if rows == "one-hot" else np.where(rng.uniform(size=(3, 3, 1)) < 0.5, hot, probs)
    counts = np.cumsum(rng.integers(1, 40, (3, 3)), axis=1).astype(float)
    table = make_general_table(3, latency=counts) if general else make_table(3, madds=[40, 13, 25])
    resource = MS if general else M
    listed = [
        (table.architecture_cost([len(g) for g in a], resource), impossible, -log)
        for a, impossible, log in all_architectures(probs)
    ]
    wanted, best = [], (10**9, 0.0)
    for cost in sorted({cost for cost, _, _ in listed}):
        reached = min((impossible, score) for c, impossible, score in listed if c <= cost)
        if reached[0] < best[0] or reached[1] < best[1] - 1e-9:
            best = reached
            wanted.append((cost, -math.inf if best[0] else -best[1]))
    front = pareto_front(probs, table, resource)
    assert [entry.cost[resource] for entry in front] == [cost for cost, _ in wanted]
    for entry, (cost, log) in zip(front, wanted, strict=True):
        assert entry.log_probability == pytest.approx(log, abs=1e-8)
        assert (entry.exact, entry.gap) == (True, 0.0)
        assert best_architecture(probs, table, [Budget(resource, cost, "")]).groupings == entry.groupings
    assert front[0].cost[resource] == budget_range(table, resource)[0]


@settings(max_examples=25, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.floats(0, 30))
def test_the_front_is_monotone(seed: int, tasks: int, layers: int, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(layers, tasks, tasks))
    probs = np.exp(logits - logits.max(axis=2, keepdims=True))
    probs /= probs.sum(axis=2, keepdims=True)
    latency = np.cumsum(rng.uniform(size=(layers, tasks)), axis=1)
    table = CostTable(
        backbone="toy",
        tasks=[f"t{t}" for t in range(tasks)],
        input_size=(8, 8),
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name=f"{i}", per_count={MS: row.tolist()}) for i, row in enumerate(latency)],
        fixed=[],
        provenance={},
    )
    front = pareto_front(probs, table, MS)
    assert all(a.cost[MS] < b.cost[MS] and a.log_probability < b.log_probability for a, b in itertools.pairwise(front))
    assert front[0].cost[MS] == pytest.approx(latency[:, 0].sum())  # all shared: costs rise with the number of groups
    free = best_architecture(probs, table, [])
    assert front[-1].log_probability == pytest.approx(free.log_probability, rel=1e-9, abs=1e-9)


def test_the_front_of_a_beam_is_monotone_and_grows_with_the_width(
    make_table: MakeTable, draw_probs: Callable[..., Floats]
) -> None:
    table, probs = make_table(9, madds=[5, 3]), draw_probs(np.random.default_rng(0), 2, 9, 1.5, 3)
    narrow, wide = (pareto_front(probs, table, M, width=width) for width in (1, 64))
    for front in (narrow, wide):
        assert all(
            a.cost[M] < b.cost[M] and a.log_probability < b.log_probability for a, b in itertools.pairwise(front)
        )
        assert front[0].cost[M] == table.shared_total(M)
    # At every cost the wide one has something at least as good.
    for entry in narrow:
        best = max(other.log_probability for other in wide if other.cost[M] <= entry.cost[M])
        assert best >= entry.log_probability - 1e-9
    assert sum(e.log_probability for e in wide) / len(wide) != sum(e.log_probability for e in narrow) / len(narrow)

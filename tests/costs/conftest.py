"""What the tests of this folder share: small tables, random probabilities, and a plain enumeration of all draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from costs import CostTable, FixedCost, LayerCost, Resource

Floats = npt.NDArray[np.float64]
Grouping = tuple[tuple[int, ...], ...]

PRIMES = [n for n in range(2, 100) if all(n % divisor for divisor in range(2, n))]

# What these fixtures return keeps nothing, so the examples of a property may share it: their scope is the session.


def all_groupings(tasks: int) -> list[Grouping]:
    """List all groupings: each task joins a group of those before it, the first group first, or starts a new one."""
    found: list[Grouping] = [()]
    for t in range(tasks):
        found = [
            grouping
            for known in found
            for grouping in (
                *((*known[:i], (*known[i], t), *known[i + 1 :]) for i in range(len(known))),
                (*known, (t,)),
            )
        ]
    return found


def split_groups(grouping: Grouping, draws: Sequence[int]) -> Grouping:
    """Return who stays together: those who were and now drew the same."""
    parts: dict[tuple[int, int], list[int]] = {}
    for number, group in enumerate(grouping):
        for t in group:
            parts.setdefault((number, draws[t]), []).append(t)
    return tuple(sorted(tuple(part) for part in parts.values()))


@pytest.fixture(scope="session")
def list_groupings() -> Callable[[int], list[Grouping]]:
    """Return the function that lists all groupings of so many tasks, in the order of the costs' columns."""
    return all_groupings


@pytest.fixture(scope="session")
def split_by() -> Callable[[Grouping, Sequence[int]], Grouping]:
    """Return the function that parts the groups of a grouping by what each task draws."""
    return split_groups


@pytest.fixture(scope="session")
def make_table() -> Callable[..., CostTable]:
    """Return a builder of tables with the given cost per group of each layer, per resource."""

    def make(
        tasks: int,
        madds: Sequence[float],
        params: Sequence[float] | None = None,
        latency: Sequence[float] | None = None,
    ) -> CostTable:
        columns = {Resource.MADDS: madds, Resource.PARAMS: params, Resource.LATENCY_MS: latency}
        known = {resource: column for resource, column in columns.items() if column is not None}
        names = [f"task{t}" for t in range(tasks)]
        heads = [
            FixedCost(name=f"head {n}", shared=False, tasks=[n], cost=dict.fromkeys(known, 10.0 + t))
            for t, n in enumerate(names)
        ]
        return CostTable(
            backbone="toy",
            tasks=names,
            input_size=(64, 96),
            batch=1,
            layers=[
                LayerCost(name=f"layer{i}", per_group={r: column[i] for r, column in known.items()})
                for i in range(len(madds))
            ],
            fixed=[FixedCost(name="stem", shared=True, tasks=names, cost=dict.fromkeys(known, 7.0)), *heads],
            provenance={"counter": "made up"},
        )

    return make


@pytest.fixture(scope="session")
def make_general_table() -> Callable[..., CostTable]:
    """Return a builder of tables whose latency and peak memory depend on the number of groups or the partition.

    `latency` and `memory` are arrays (L, T) or (L, Bell(T)); which one it is, their width says. `madds` are those of
    one group in each layer, 2, 3, 5, 7, ... if not given, so that no layer passes for another. Fixed parts cost 0.5.
    """

    def make(
        tasks: int, latency: Floats, memory: Floats | None = None, madds: Sequence[float] | None = None
    ) -> CostTable:
        names = [f"t{t}" for t in range(tasks)]
        keys = ["|".join("+".join(names[t] for t in group) for group in grouping) for grouping in all_groupings(tasks)]
        per_group = PRIMES[: len(latency)] if madds is None else madds
        known = {Resource.LATENCY_MS: latency} | ({} if memory is None else {Resource.PEAK_MEMORY_MIB: memory})
        layers = [
            LayerCost(
                name=f"layer{i}",
                per_group={Resource.MADDS: float(per_group[i])},
                per_count={r: c[i].tolist() for r, c in known.items() if c.shape[1] == tasks},
                per_partition={
                    r: dict(zip(keys, c[i].tolist(), strict=True)) for r, c in known.items() if c.shape[1] != tasks
                },
            )
            for i in range(len(latency))
        ]
        kinds = {r: "group_count" if c.shape[1] == tasks else "partition" for r, c in known.items()}
        fixed = dict.fromkeys([*known, Resource.MADDS], 0.5)
        return CostTable(
            backbone="toy",
            tasks=[f"t{t}" for t in range(tasks)],
            input_size=(64, 96),
            batch=1,
            depends_on={Resource.MADDS: "groups_proportional", **kinds},
            layers=layers,
            fixed=[FixedCost(name="stem", shared=True, tasks=[], cost=fixed)],
            provenance={"counter": "made up"},
        )

    return make


@pytest.fixture(scope="session")
def draw_probs() -> Callable[..., Floats]:
    """Return a generator of random probabilities (L, T, C); the higher the sharpness, the nearer to one-hot."""

    def draw(rng: np.random.Generator, layers: int, tasks: int, sharpness: float, candidates: int = 0) -> Floats:
        logits = sharpness * rng.normal(size=(layers, tasks, candidates or tasks))
        exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
        result: Floats = exponentials / exponentials.sum(axis=2, keepdims=True)
        return result

    return draw


class Enumeration:
    """All draws of all layers, one by one: the definition, with nothing clever in it.

    `weights` is the probability of every combination of draws, `groupings[l]` the number of the partition that it
    leads to in layer l, `partitions[number]` that partition as sets of tasks.
    """

    def __init__(self, probs: Floats) -> None:
        layers, tasks, candidates = probs.shape
        draws = list(itertools.product(range(candidates), repeat=tasks))
        pairs = list(itertools.combinations(range(tasks), 2))
        agreement = np.array(
            [sum((d[a] == d[b]) << i for i, (a, b) in enumerate(pairs)) for d in draws], dtype=np.uint8
        )
        weight = [np.array([np.prod([probs[i, t, d[t]] for t in range(tasks)]) for d in draws]) for i in range(layers)]
        self.weights, self.groupings = weight[0], [agreement]
        for i in range(1, layers):
            self.weights = np.multiply.outer(self.weights, weight[i]).ravel()
            together = np.bitwise_and.outer(self.groupings[-1], agreement).ravel()
            self.groupings = [np.repeat(before, len(draws)) for before in self.groupings] + [together]
        self.partitions = {}
        for number in set(agreement.tolist()) | set(self.groupings[-1].tolist()):
            blocks: list[list[int]] = []
            for t in range(tasks):
                home = [b for b in blocks if number >> pairs.index((b[0], t)) & 1]
                if home:
                    home[0].append(t)
                else:
                    blocks.append([t])
            self.partitions[number] = tuple(tuple(block) for block in blocks)

    def expected(self, cost: Callable[[int, tuple[tuple[int, ...], ...]], float]) -> Floats:
        """Return the mean of `cost(layer, grouping)` in each layer."""
        return np.array(
            [
                math.fsum(
                    cost(layer, blocks) * self.weights[numbers == n].sum() for n, blocks in self.partitions.items()
                )
                for layer, numbers in enumerate(self.groupings)
            ]
        )

    def expected_groups(self) -> Floats:
        counts = np.zeros(256)
        for number, blocks in self.partitions.items():
            counts[number] = len(blocks)
        return np.array([(counts[numbers] * self.weights).sum() for numbers in self.groupings])

    def architectures(self) -> dict[tuple[tuple[tuple[int, ...], ...], ...], float]:
        """Return the probability of every sequence of groupings that some draw leads to."""
        codes = np.zeros(len(self.weights), dtype=np.int64)
        for numbers in self.groupings:
            codes = codes * 256 + numbers
        unique, inverse = np.unique(codes, return_inverse=True)
        sums = np.bincount(inverse, weights=self.weights)
        layers = len(self.groupings)
        return {
            tuple(self.partitions[int(code) >> 8 * (layers - 1 - i) & 255] for i in range(layers)): float(total)
            for code, total in zip(unique, sums, strict=True)
        }


class ExactEnumeration:
    """The probability of every grouping in every layer, in whole numbers, so that nothing at all is rounded.

    The draws of a layer are listed one by one; each takes every grouping of the layer before to who is then still
    together. A row of weights need not sum to 1: the probabilities are its numbers divided by their sum.
    `probabilities[l]` are those of the groupings that occur in layer l.
    """

    def __init__(self, probs: Floats) -> None:
        tasks, candidates = probs.shape[1:]
        self.probabilities: list[dict[Grouping, Fraction]] = []
        reached, total = {(tuple(range(tasks)),): 1}, 1
        for layer in probs.tolist():
            scale = max(Fraction(p).denominator for row in layer for p in row)  # powers of two: the largest is common
            weights = [[int(Fraction(p) * scale) for p in row] for row in layer]
            total *= math.prod(sum(row) for row in weights)
            following: dict[Grouping, int] = {}
            for draw in itertools.product(range(candidates), repeat=tasks):
                weight = math.prod(weights[t][draw[t]] for t in range(tasks))
                if weight:
                    for grouping, before in reached.items():
                        parted = split_groups(grouping, draw)
                        following[parted] = following.get(parted, 0) + before * weight
            reached = following
            self.probabilities.append({grouping: Fraction(n, total) for grouping, n in reached.items()})

    def expected(self, cost: Callable[[int, Grouping], float]) -> Floats:
        """Return the mean of `cost(layer, grouping)` in each layer, rounded once."""
        return np.array(
            [
                float(sum(p * Fraction(cost(i, grouping)) for grouping, p in layer.items()))
                for i, layer in enumerate(self.probabilities)
            ]
        )


@pytest.fixture(scope="session")
def enumerate_draws() -> type[Enumeration]:
    return Enumeration


@pytest.fixture(scope="session")
def enumerate_exactly() -> type[ExactEnumeration]:
    return ExactEnumeration

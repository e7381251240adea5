"""What the tests of this folder share: small tables, random probabilities, and a plain enumeration of all draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from costs import CostTable, FixedCost, LayerCost, Resource
from costs.partitions import partitions_of, write_key

Floats = npt.NDArray[np.float64]


@pytest.fixture
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


@pytest.fixture
def make_general_table() -> Callable[..., CostTable]:
    """Return a builder of tables whose latency and peak memory depend on the number of groups or the partition.

    `latency` and `memory` are arrays (L, T) or (L, Bell(T)); which one it is, their width says. MAdds are 1 a group.
    """

    def make(tasks: int, latency: Floats, memory: Floats | None = None) -> CostTable:
        names = [f"t{t}" for t in range(tasks)]
        keys = [write_key(partition, names) for partition in partitions_of(2**tasks - 1)]
        known = {Resource.LATENCY_MS: latency} | ({} if memory is None else {Resource.PEAK_MEMORY_MIB: memory})
        layers = [
            LayerCost(
                name=f"layer{i}",
                per_group={Resource.MADDS: 1.0},
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
            tasks=names,
            input_size=(64, 96),
            batch=1,
            depends_on={Resource.MADDS: "groups_proportional", **kinds},
            layers=layers,
            fixed=[FixedCost(name="stem", shared=True, tasks=names, cost=fixed)],
            provenance={"counter": "made up"},
        )

    return make


@pytest.fixture
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


@pytest.fixture
def enumerate_draws() -> type[Enumeration]:
    return Enumeration

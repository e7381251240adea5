"""What networks of AutoMTL cost, exactly, from the choices of their tasks: without building a graph, for thousands of them at a time.

The values of two tasks are equal below a convolution if at all convolutions above it both take the shared one, or both skip where
skipping is doing nothing. Tasks whose values are equal are a group, and what they take together is computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costs.table import CostTable
from costs.units import Resource

SHARED, OWN, SKIP = 0, 1, 2
"""The choices, in the order of the published code."""
CHOICES = 3
Choices = npt.NDArray[np.int64]
"""What each task takes in each convolution, (T, L)."""
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_ENTRIES = 1 << 24
"""Of the greatest array that is made at a time."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """Which values depend on which choices.

    `identity` (L,): convolutions that are skipped by doing nothing. `forced` (L,): those that are shared in any case. `above` (L, L): row l has the
    convolutions above l. `above_free` (F, L): those above each of the operations `free`, which have no choice.
    """

    identity: Flags
    forced: Flags
    above: Flags
    above_free: Flags
    free: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Prices:
    """The costs of parts in one resource, in base units.

    For each convolution: `once` however often the shared one is used, `run` each time that it is computed, `own` one of a task's own, `skip`
    the skipping of one task. `free`: each group of tasks at an operation without choice. `fixed`: what every network has.
    """

    once: Floats
    run: Floats
    own: Floats
    skip: Floats
    free: Floats
    fixed: float

    def of(self, choices: npt.NDArray[np.int64], wiring: Wiring) -> Floats:
        """Return the cost of each network, (B, T, L) to (B,)."""
        networks, tasks, convs = choices.shape
        chunk = max(1, _ENTRIES // (max(1, tasks * tasks) * (convs + len(wiring.free))))
        return np.concatenate([self._of(choices[i : i + chunk], wiring) for i in range(0, networks, chunk)])

    def _of(self, choices: npt.NDArray[np.int64], wiring: Wiring) -> Floats:
        taken = choices == SHARED
        runs, groups = _groups(choices, taken, wiring)
        total: Floats = taken.any(axis=1) @ self.once + runs @ self.run + groups @ self.free + self.fixed
        for choice, price in ((OWN, self.own), (SKIP, self.skip)):
            total += (choices == choice).sum(axis=1) @ price
        return total


def _groups(choices: npt.NDArray[np.int64], taken: Flags, wiring: Wiring) -> tuple[Floats, Floats]:
    """Return how often each shared convolution is computed, (B, L), and the number of groups at each free operation, (B, F).

    A group is counted by the first of its tasks.
    """
    above = np.concatenate([wiring.above, wiring.above_free]).T.astype(np.float32)
    convs = choices.shape[2]
    counted = [np.ones((len(choices), above.shape[1]), dtype=bool) for _ in range(choices.shape[1])]
    for t, other in itertools.combinations(range(choices.shape[1]), 2):
        same = choices[:, t] == choices[:, other]
        agree = same & (taken[:, t] | (wiring.identity & (choices[:, t] == SKIP)))
        equal = (~agree).astype(np.float32) @ above == 0
        # Of those that do not take the shared one, none computes it for others.
        equal[:, :convs] &= taken[:, t]
        counted[other] &= ~equal
    first = np.stack(counted, axis=1)
    runs = (first[:, :, :convs] & taken).sum(axis=1)
    return runs.astype(np.float64), first[:, :, convs:].sum(axis=1).astype(np.float64)


def read_prices(
    table: CostTable,
    resource: Resource,
    convs: Sequence[str],
    norms: Sequence[str | None],
    skips: Sequence[str | None],
    free: Sequence[str],
    heads: Sequence[str],
) -> Prices:
    """Take the prices from the operations of a table, by their names: for each convolution the normalisation behind it and its skip, or None.

    Parameters of operations without choice other than normalisations are the same ones for all tasks. Raises CostError for what the
    table does not know.
    """

    def cost(name: str | None) -> float:
        return 0.0 if name is None else table.operation_cost(name, resource)

    conv, norm, skip, other = (np.array([cost(name) for name in names]) for names in (convs, norms, skips, free))
    fixed = sum(cost(head) for head in heads)
    if resource is Resource.MADDS:
        return Prices(np.zeros_like(conv), conv + norm, conv + norm, skip, other, fixed)
    own = np.array([name.startswith("norms.") for name in free], dtype=bool)
    return Prices(conv, norm, conv + norm, skip, np.where(own, other, 0.0), fixed + float(other[~own].sum()))

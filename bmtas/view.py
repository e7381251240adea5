"""How a search stands, in a few words: what the tasks would share now, and how sure that is. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costs.decode import argmax_architecture
from costs.groupings import grouping_probabilities
from costs.partitions import Grouping
from costs.splits import COMPLETE_TASKS, Floats


def describe_tree(groupings: Sequence[Grouping], names: Sequence[str]) -> str:
    """Return which layers share what, as in `0-15 all, 16-17 semseg+parts|edge`."""
    spans: list[tuple[int, int, Grouping]] = []
    for layer, grouping in enumerate(groupings):
        if spans and spans[-1][2] == grouping:
            spans[-1] = (spans[-1][0], layer, grouping)
        else:
            spans.append((layer, layer, grouping))
    return ", ".join(
        f"{first if first == last else f'{first}-{last}'} {_describe(grouping, names)}"
        for first, last, grouping in spans
    )


def _describe(grouping: Grouping, names: Sequence[str]) -> str:
    if len(grouping) == 1:
        return "all"
    if len(grouping) == len(names):
        return "each alone"
    return "|".join("+".join(names[t] for t in block) for block in grouping)


def grouping_entropy(probs: Floats) -> float | None:
    """Return the entropy of the groupings in nats, mean over layers, for `probs` (L, T, C).

    0 once the search is sure. None for more than eight tasks, whose groupings take too long to go through in passing.
    """
    if probs.shape[1] > COMPLETE_TASKS:
        return None
    chances = grouping_probabilities(probs)
    logs = np.log(chances, out=np.zeros_like(chances), where=chances > 0)
    return float(-(chances * logs).sum(axis=1).mean()) + 0.0


def current_tree(probs: Floats, names: Sequence[str]) -> str:
    """Return the tree of every task's most probable candidates now; it keeps no budget yet."""
    return describe_tree(argmax_architecture(probs), names)

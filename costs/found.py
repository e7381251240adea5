"""What the decoders of `costs.decode_tree` and `costs.decode_path` hand over."""

from __future__ import annotations

from dataclasses import dataclass

from costs.partitions import Grouping


@dataclass(frozen=True)
class Found:
    """An architecture within the limits.

    Attributes:
        groupings: of each of the L layers.
        score: -log of its probability on the lattice of `costs.scores`.
        possible: whether the distribution allows it.
        chances: the probabilities whose product is that of the architecture.
        lowest: no architecture within the limits has a lower score than this; 0 where nothing is known.
        exact: whether none that is better was left out of account.
    """

    groupings: tuple[Grouping, ...]
    score: float
    possible: bool
    chances: tuple[float, ...]
    lowest: float
    exact: bool

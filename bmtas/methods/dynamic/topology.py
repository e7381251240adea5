"""The graph of states and arcs of dynamic topologies (Choi & Im, CVPR 2023), and what a part of it costs.

v_0 is the image, v_1 to v_n are the hidden states, v_(n+1) is the read-out. Arcs lead from the image to every state (read-ins; that of
v_1 is the backbone's stem), from a state to later ones at most `flow` states on whose stride is not smaller (links), and from
every state to the read-out (read-outs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bmtas.networks.states import State, arc_operation
from costs.exact_sums import exact_sum

Arc = tuple[int, int]
"""From a state to a later one, by their numbers: 0 is the image, n + 1 the read-out."""
Kept = frozenset[Arc]
"""The arcs that one task keeps."""
IMAGE_STATE = 0


@dataclass(frozen=True)
class Topology:
    """The graph of all arcs. `tap` is the state that heads of dense tasks read beside the read-out, None where none is read."""

    states: tuple[State, ...]
    flow: int
    tap: int | None

    @property
    def read_out(self) -> int:
        """The number of the read-out."""
        return len(self.states) + 1

    @cached_property
    def arcs(self) -> tuple[Arc, ...]:
        """All arcs: read-ins, then links, then read-outs, each by target and source."""
        inner = range(1, self.read_out)
        return (
            *((IMAGE_STATE, j) for j in inner),
            *(
                (i, j)
                for j in inner
                for i in range(max(1, j - self.flow), j)
                if self.states[i - 1].stride <= self.states[j - 1].stride
            ),
            *((i, self.read_out) for i in inner),
        )

    @property
    def links(self) -> int:
        """How many arcs are links between states."""
        return len(self.arcs) - 2 * len(self.states)

    @cached_property
    def into(self) -> tuple[tuple[int, ...], ...]:
        """For each state, 0 to n + 1, the places in `arcs` of those that lead to it, by source."""
        found: list[list[int]] = [[] for _ in range(self.read_out + 1)]
        for place, (_, target) in enumerate(self.arcs):
            found[target].append(place)
        return tuple(tuple(places) for places in found)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The states that heads read: the read-out, and the tap where it is a state."""
        return (self.read_out,) if self.tap is None else (self.read_out, self.tap)

    def operation(self, arc: Arc) -> str:
        """Return the operation on an arc."""
        return arc_operation(*arc, len(self.states))

    def connected(self, kept: Iterable[Arc]) -> bool:
        """Say whether the image reaches everything that heads read."""
        return set(self.outputs) <= self._reached(kept)

    def alive(self, kept: Iterable[Arc]) -> Kept:
        """Return the arcs without dead ends: those from states that the image reaches to states that reach an output."""
        arcs = list(kept)
        forward = self._reached(arcs)
        wanted = set(self.outputs)
        for source, target in sorted(arcs, key=lambda arc: -arc[1]):  # arcs lead to greater numbers alone
            if target in wanted:
                wanted.add(source)
        return frozenset((i, j) for i, j in arcs if i in forward and j in wanted)

    def _reached(self, kept: Iterable[Arc]) -> set[int]:
        reached = {IMAGE_STATE}
        for source, target in sorted(kept):
            if source in reached:
                reached.add(target)
        return reached


def in_arcs(kept: Iterable[Arc]) -> dict[int, list[Arc]]:
    """Return the arcs by the state they lead to, each by source."""
    found: dict[int, list[Arc]] = {}
    for arc in sorted(kept):
        found.setdefault(arc[1], []).append(arc)
    return found


@dataclass(frozen=True)
class ArcCosts:
    """What networks are made of costs in one resource, in base units: each arc's operation, and what all networks pay.

    With `parameters` an operation counts once however often it is applied, and so does every scalar of a sum; without, an
    operation counts for each value that it is applied to, and sums cost nothing.
    """

    per_arc: Mapping[Arc, float]
    fixed: float
    parameters: bool

    def total(self, kept: Sequence[Kept]) -> float:
        """Return the cost of the merged graph of what the tasks keep: `bmtas.tables.architecture_costs` of it, without making it."""
        applied: set[tuple[Arc, object]] = set()
        names: dict[tuple[Arc, object], int] = {}  # equal values have equal names
        scalars = 0
        for task, arcs in enumerate(kept):
            values: dict[int, object] = {}
            for target, places in sorted(in_arcs(arcs).items()):
                inputs = [(arc, values.get(arc[0])) for arc in places]
                applied.update(inputs)
                single = len(inputs) == 1
                values[target] = names.setdefault(inputs[0], len(names)) if single else (task, target)
                scalars += 0 if single else len(inputs)
        if self.parameters:
            return exact_sum([self.fixed, float(scalars), *(self.per_arc[arc] for arc in {arc for arc, _ in applied})])
        return exact_sum([self.fixed, *(self.per_arc[arc] for arc, _ in applied)])

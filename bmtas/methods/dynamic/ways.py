"""The cheapest ways from the image to all that heads read, exactly: what a task keeps if nothing else fits a budget.

A way without a dead end and without a sum is a path to the read-out and one to the tap, which part at one state. No network costs less
than the cheapest way: what any one dense task keeps contains a way, and tasks that keep the same way compute it once. A task that
does not read the tap keeps the path to the read-out alone, which costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bmtas.methods.dynamic.topology import IMAGE_STATE, Arc, ArcCosts, Kept, Topology


@dataclass(frozen=True)
class _Way:
    """Arcs, and what they cost in each of some resources."""

    costs: tuple[float, ...]
    arcs: Kept

    def __add__(self, other: _Way) -> _Way:
        return _Way(tuple(a + b for a, b in zip(self.costs, other.costs, strict=True)), self.arcs | other.arcs)


def cheapest_way(topology: Topology, costs: Sequence[ArcCosts], limits: Sequence[float]) -> Kept:
    """Return the way, common to all tasks, whose greatest ratio of cost to limit over some resources is least.

    `limits` are in base units and positive; what all networks pay counts. Exact: a dynamic programme that carries, for each
    state, all costs of which none is better in every resource.
    """
    forward = _paths(topology, costs, IMAGE_STATE)
    found = forward[topology.read_out] if topology.tap is None else []
    for parting in range(0 if topology.tap is None else topology.tap + 1):
        onward = _paths(topology, costs, parting)
        both = _undominated([a + b for a in onward[topology.read_out] for b in onward[topology.tap or 0]])
        found = _undominated([*found, *(a + b for a in forward[parting] for b in both)])

    def ratio(way: _Way) -> float:
        return max((c + one.fixed) / limit for c, one, limit in zip(way.costs, costs, limits, strict=True))

    return min(found, key=lambda way: (ratio(way), way.costs, sorted(way.arcs))).arcs


def _paths(topology: Topology, costs: Sequence[ArcCosts], start: int) -> list[list[_Way]]:
    """Return for each state the undominated paths from `start` to it."""
    nothing = _Way((0.0,) * len(costs), frozenset())
    found: list[list[_Way]] = [[] for _ in range(topology.read_out + 1)]
    found[start] = [nothing]
    for target in range(start + 1, topology.read_out + 1):
        arcs = [topology.arcs[place] for place in topology.into[target]]
        found[target] = _undominated([way + _step(arc, costs) for arc in arcs for way in found[arc[0]]])
    return found


def _step(arc: Arc, costs: Sequence[ArcCosts]) -> _Way:
    return _Way(tuple(one.per_arc[arc] for one in costs), frozenset([arc]))


def _undominated(ways: Sequence[_Way]) -> list[_Way]:
    """Return the ways but for those that another one equals or beats in every resource."""
    kept: list[_Way] = []
    for way in sorted(ways, key=lambda way: way.costs):
        if not any(all(a <= b for a, b in zip(other.costs, way.costs, strict=True)) for other in kept):
            kept.append(way)
    return kept

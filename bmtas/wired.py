"""What a network that is no tree computes for whom, and how its method came to it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.graph import Node
from costs.table import CostTable
from costs.units import Resource


@dataclass(frozen=True)
class Computed:
    """Operations that are computed for exactly `tasks`: how many, what they cost, and how many have weights that others use, too."""

    tasks: tuple[str, ...]
    operations: int
    madds: float
    weights_shared: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "tasks": list(self.tasks)}


def computed_for(architecture: WiredArchitecture, table: CostTable) -> list[Computed]:
    """Return what is computed for each set of tasks, the largest sets first; the multiply-adds are those of `table` and sum to the network's."""
    copies: dict[str, set[tuple[str, ...]]] = {}
    sets: dict[tuple[str, ...], list[Node]] = {}
    for node in architecture.merged.nodes:
        copies.setdefault(node.module, set()).add(node.tasks)
        sets.setdefault(node.tasks, []).append(node)
    order = sorted(sets, key=lambda names: (-len(names), [architecture.tasks.index(n) for n in names]))
    return [
        Computed(
            tasks,
            len(sets[tasks]),
            sum(table.operation_cost(node.operation, Resource.MADDS) for node in sets[tasks]),
            sum(len(copies[node.module]) > 1 and node.module != node.operation for node in sets[tasks]),
        )
        for tasks in order
    ]


def derivation_text(method: Method, found: Mapping[str, Any]) -> str:
    """Return in a line how `architecture.json` says that the network was derived, and why it may cost less than the budget allows.

    Empty for methods that derive nothing.
    """
    tell = {Method.MTL_NAS: _edges, Method.AUTOMTL: _policies, Method.DYNAMIC: _links}.get(method)
    return "" if tell is None else tell(found)


def _edges(found: Mapping[str, Any]) -> str:
    edges = found["edges"]
    kept, dropped = (sum(edge[key] for edge in edges) for key in ("kept", "dropped"))
    over = f"; {dropped} more were wanted, but are over the budget" if dropped else ""
    unsure = f"mean entropy {found['entropy']:.2g} of at most 0.69 nats"
    return f"{kept} of {len(edges)} edges between tasks are kept{over}; {unsure}: near 0 the search was sure"


def _policies(found: Mapping[str, Any]) -> str:
    policies = found["policies"]
    within = sum(policy["within"] for policy in policies)
    if found["repaired"]:
        return (
            f"none of {len(policies)} sampled policies is within the budget: the most probable one, changed until it is"
        )
    return f"the one of least loss of {len(policies)} sampled policies, {within} of them within the budget; none of them need use it up"


def _links(found: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{task} {len(t['arcs'])} ({t['flow']:.0%})" for task, t in found["topologies"].items())
    agreed = [task for task, topology in found["topologies"].items() if topology["agreed"]]
    forced = f"; {', '.join(agreed)} took over links of others to keep the budget" if agreed else ""
    return (
        f"links kept, and the share of the task's flow that they carry: {kept}{forced}; links beyond the flow of --set keep_flow are "
        "deleted whatever the budget"
    )

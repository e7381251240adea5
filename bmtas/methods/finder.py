"""What every way to an architecture has in common, and which class goes which way."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.networks.network import GraphNetwork
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.runs import Run
from costs.table import CostTable


@dataclass(frozen=True)
class Found:
    """An architecture within the budgets, and how it was found, as plain JSON values for `architecture.json`.

    `trained` is its network where the method has trained it by then, `start` one whose weights training begins with instead of
    the backbone's pretrained ones.
    """

    architecture: Architecture
    details: dict[str, Any] = field(default_factory=dict)
    trained: GraphNetwork | None = None
    start: GraphNetwork | None = None


class Finder(Protocol):
    """One way to an architecture. All processes of a run call the same methods in the same order."""

    def prepare(self, *, begun: bool) -> None:
        """Find what is missing or wrong before a run folder is made; `begun` if there is a checkpoint to go on from."""

    def learn(self, run: Run, progress: Progress) -> None:
        """Find out what the architecture is derived from. Whatever takes long keeps checkpoints in the run's folder and goes on from them."""

    def derive(self, table: CostTable) -> Found:
        """Return the architecture within the plan's budgets by `table`, the plan's or a corrected one; nothing is learned again."""

    def draw(self, run: Run, found: Found) -> None:
        """Draw into the run's folder what is better seen than read. Raises EnvironmentProblem or OSError if it cannot."""


def choose_finder(plan: Plan, how: How) -> Finder:
    """Return the finder of the plan's method. Raises what making it raises."""
    method = plan.config.method
    module = method.folder if method.one_module else f"{method.folder}.finder"
    made: Finder = importlib.import_module(f"bmtas.methods.{module}").build(plan, how)
    return made


def named(plan: Plan, groupings: Any) -> Architecture:
    """Return groupings of task indices as an architecture of the plan."""
    names = [task["name"] for task in plan.config.tasks]
    return BranchedArchitecture(
        backbone=plan.config.backbone,
        method=plan.config.method.value,
        tasks=tuple(names),
        groupings=tuple(tuple(tuple(names[i] for i in b) for b in g) for g in groupings),
    )

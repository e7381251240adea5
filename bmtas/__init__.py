"""Multi-task networks under a resource budget: search, train, export, measure.

    run = bmtas.search("9GMAdds", data="my.yaml")
    bmtas.train(run)
    network = bmtas.load(run)              # torch: images (N, 3, H, W) to predictions by task

The public names are loaded on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bmtas.adapters import register_backbone, register_kind
    from bmtas.api import build, evaluate, load, search, show, train
    from bmtas.architecture import Architecture, BranchedArchitecture, WiredArchitecture
    from bmtas.errors import BmtasError, BudgetError, EnvironmentProblem, UsageError
    from bmtas.networks.backbone import Backbone, Parts
    from bmtas.progress import Logged
    from bmtas.runs import Run, open_run
    from bmtas.tasks import Task, TaskKind

__all__ = [
    "search",
    "train",
    "evaluate",
    "show",
    "build",
    "load",
    "Run",
    "open_run",
    "Task",
    "TaskKind",
    "Architecture",
    "BranchedArchitecture",
    "WiredArchitecture",
    "register_backbone",
    "register_kind",
    "Backbone",
    "Parts",
    "Logged",
    "BmtasError",
    "UsageError",
    "BudgetError",
    "EnvironmentProblem",
]

_HOMES = {
    "adapters": ("register_backbone", "register_kind"),
    "api": ("search", "train", "evaluate", "show", "build", "load"),
    "architecture": ("Architecture", "BranchedArchitecture", "WiredArchitecture"),
    "errors": ("BmtasError", "UsageError", "BudgetError", "EnvironmentProblem"),
    "networks.backbone": ("Backbone", "Parts"),
    "progress": ("Logged",),
    "runs": ("Run", "open_run"),
    "tasks": ("Task", "TaskKind"),
}
_FILE_OF = {name: f"bmtas.{file}" for file, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its file."""
    if name not in _FILE_OF:
        raise AttributeError(f"module 'bmtas' has no attribute {name!r}")
    return getattr(importlib.import_module(_FILE_OF[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)

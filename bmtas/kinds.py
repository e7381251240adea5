"""Kinds of tasks that are not the house's own: brought by a plugin, known by name until the process ends. Needs no torch itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bmtas.errors import UsageError
from bmtas.tasks import OwnKind, Task, TaskKind

if TYPE_CHECKING:
    from torch import Tensor


class Metric(Protocol):
    """Collects predictions and labels, then gives numbers by name."""

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Take one batch, on the CPU: raw predictions (N, channels, H, W) or (N, channels), labels as in `bmtas.tasks`."""

    def compute(self) -> dict[str, float]:
        """Return the metrics over all batches, the one that Delta_m compares first. NaN where no label was valid."""

    def close(self) -> None:
        """Let go of what is held beside memory."""


@dataclass(frozen=True)
class Kind:
    """A kind of a user's own.

    Its labels are those of the kind `like`: files, augmentation, channels, pictures, the exported output and its proof are that
    kind's. `loss` takes the task, raw predictions, labels and counts (2,), as `bmtas.losses.task_loss`, and returns a scalar: a sum over the valid
    labels at hand divided by `counts[0]`, how many there are in the whole batch. `score` makes a metric, whose first value is called `metric`.
    """

    name: str
    like: TaskKind
    metric: str
    higher_is_better: bool
    loss: Callable[[Task, Tensor, Tensor, Tensor], Tensor]
    score: Callable[[Task], Metric]

    def __post_init__(self) -> None:
        """Check what can be told without a batch. Raises UsageError."""
        for what, value in (("name", self.name), ("metric", self.metric)):
            if not isinstance(value, str) or not value.replace("_", "").replace("-", "").isalnum():
                raise UsageError(f"a kind's {what} is of letters, digits, '_' and '-', not {value!r}; rename it")
        if not isinstance(self.higher_is_better, bool):
            raise UsageError(
                f"the kind {self.name!r}: higher_is_better is {self.higher_is_better!r}; give True or False"
            )
        for what, function in (("loss", self.loss), ("score", self.score)):
            if not callable(function):
                raise UsageError(
                    f"the kind {self.name!r}: its {what} is {function!r}, which cannot be called; give a function or a class"
                )

    @property
    def told(self) -> OwnKind:
        """What a task keeps of it."""
        return OwnKind(self.name, self.metric, self.higher_is_better)


_KINDS: dict[str, Kind] = {}


def add_kind(kind: Kind) -> None:
    """Let `kind` be known by its name; one brought before gives way. Raises UsageError for a name of the house's own."""
    if kind.name in [each.value for each in TaskKind]:
        raise UsageError(f"bmtas has a kind {kind.name!r} already; give yours another name")
    _KINDS[kind.name] = kind


def known_kinds() -> dict[str, Kind]:
    """Return the kinds that were brought, by name."""
    return dict(_KINDS)


def find_kind(name: str) -> Kind:
    """Return the kind called `name`. Raises UsageError if the plugin that brings it is not loaded."""
    if name not in _KINDS:
        raise UsageError(
            f"tasks of the kind {name!r} need the plugin that brings it: bmtas --plugin FILE ..., or `plugins` in bmtas.toml"
        )
    return _KINDS[name]

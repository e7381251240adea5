"""Sees a loss explode while it is still a number, and keeps the checkpoint from before it did.

A loss explodes if it stays far above where the task began. Where it began is the greatest of its first losses; far above
is `FACTOR` times that, or `AT_ONCE` times for a single step. What is below `LEAST` is no explosion whatever it began with:
a balanced loss is as small as positives are rare in a batch, and differs as much from batch to batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST = 10
"""So many losses of a task, other than 0, tell where it began; a batch without labels has a loss of 0."""
FACTOR, STEPS = 100.0, 5
AT_ONCE = 1e4
LEAST = 10.0


class ExplodedError(ArithmeticError):
    """A task's loss is finite and far from all sense."""


class LossWatch:
    """Remembers where each task's loss began and for how many steps it has been far above."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._first: dict[str, list[float]] = {name: [] for name in tasks}
        self._above: dict[str, int] = dict.fromkeys(tasks, 0)

    def see(self, losses: Mapping[str, float]) -> None:
        """Take in the losses of one step, by task. Raises ExplodedError naming the task."""
        for name, loss in losses.items():
            first = self._first[name]
            if len(first) < FIRST:
                first += [loss] if loss != 0 else []
                continue
            began = max(first)
            far = loss > LEAST and loss > FACTOR * began
            self._above[name] = self._above[name] + 1 if far else 0
            if self._above[name] >= STEPS or (far and loss > AT_ONCE * began):
                for_steps = f"for {self._above[name]} steps" if self._above[name] > 1 else "in one step"
                raise ExplodedError(
                    f"the loss of {name!r} has exploded: it is {loss:.3g}, {loss / began:.0f} times the {began:.3g} that its "
                    f"first {FIRST} steps had at most, {for_steps}"
                )

    @property
    def suspicious(self) -> bool:
        """Whether some loss is far above where it began, so that what was learned last should not be kept."""
        return any(self._above.values())

    def told(self) -> str:
        """Return which losses are far above where they began."""
        names = [name for name, steps in self._above.items() if steps]
        return f"the loss of {' and '.join(map(repr, names))} is more than {FACTOR:.0f} times that of its first {FIRST} steps"

    def state_dict(self) -> dict[str, Any]:
        """Return all that has been seen, as plain values."""
        return {"first": {k: list(v) for k, v in self._first.items()}, "above": dict(self._above)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`. Raises KeyError or ValueError if it is of other tasks."""
        if set(state["first"]) != set(self._first) or set(state["above"]) != set(self._above):
            raise ValueError(f"its losses are of {sorted(state['first'])}, not of {sorted(self._first)}")
        self._first = {k: [float(x) for x in v] for k, v in state["first"].items()}
        self._above = {k: int(v) for k, v in state["above"].items()}

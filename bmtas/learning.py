"""Warns while a network is trained that a task does not learn: that a constant would do as well as the network does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_LOOKS = (0.25, 0.5, 1.0)
"""At these shares of the steps the losses are looked at."""
_LEAST_STEPS = 50
"""Before so many steps nothing can be expected of a task."""
_WINDOW = 0.1
"""Share of the steps over which losses are averaged before a look."""
_BETTER = 0.98
"""Of the constant's loss: a task below it has learned something."""


class LearningWatch:
    """Averages each task's loss before every look and holds it against that of the best constant prediction."""

    def __init__(self, total: int, constants: Mapping[str, float]) -> None:
        """Take the number of steps and the losses of constants by task (`bmtas.constants`), NaN where there is none."""
        self.total, self.constants = total, dict(constants)
        self._window = max(1, round(total * _WINDOW))
        self._looks = sorted({round(total * share) for share in _LOOKS if round(total * share) >= _LEAST_STEPS})
        self._sums: dict[str, float] = dict.fromkeys(constants, 0.0)
        self._counts: dict[str, int] = dict.fromkeys(constants, 0)

    def see(self, done: int, losses: Mapping[str, float]) -> list[str]:
        """Take in the losses of a step, after which `done` are taken; return what the user should know now."""
        due = next((look for look in self._looks if look >= done), None)
        if due is None or done <= due - self._window:
            return []
        for name, loss in losses.items():
            if loss != 0:  # a batch without labels
                self._sums[name] += loss
                self._counts[name] += 1
        if done < due:
            return []
        told = [text for name in losses if (text := self._told(name, done)) is not None]
        self._sums, self._counts = dict.fromkeys(self._sums, 0.0), dict.fromkeys(self._counts, 0)
        return told

    def _told(self, name: str, done: int) -> str | None:
        constant, count = self.constants[name], self._counts[name]
        if math.isnan(constant) and count:
            return None  # no label in the first batches, so that there is no mark to hold the later ones against
        if math.isnan(constant):
            return (
                f"the task {name!r} had no label in the images that were looked at; bmtas data check says what there is"
            )
        if not count or self._sums[name] / count < _BETTER * constant:
            return None
        return (
            f"the task {name!r} has not learned after {done} of {self.total} steps: its loss is {self._sums[name] / count:.3g}, "
            f"that of the best constant prediction {constant:.3g}. See whether its labels are right, raise its loss_weight or "
            "the learning rate, or train longer"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that has been seen, as plain values."""
        return {"constants": dict(self.constants), "sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`. Raises KeyError or ValueError if it is of other tasks."""
        if set(state["constants"]) != set(self.constants):
            raise ValueError(f"its tasks are {sorted(state['constants'])}, not {sorted(self.constants)}")
        self.constants = {k: float(v) for k, v in state["constants"].items()}
        self._sums = {k: float(v) for k, v in state["sums"].items()}
        self._counts = {k: int(v) for k, v in state["counts"].items()}

"""Classes that no label holds: often one too many in a manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmtas.data.protocol import Sample
from bmtas.tasks import Task, TaskKind

_SHOWN = 5  # classes of a task, and tasks, that are told one by one
_OFTEN = 10  # labels per class, with which an evenly frequent class is absent with a probability below e^-10


class Seen:
    """The classes that labels hold. `add` may be called from several threads."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Look at those of `tasks` whose labels are classes."""
        self._tasks = [task for task in tasks if task.kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION)]
        self._found: dict[str, list[frozenset[int]]] = {task.name: [] for task in self._tasks}

    def add(self, sample: Sample) -> None:
        """Note the classes in the labels of `sample`."""
        for name, found in self._found.items():
            if name in sample.labels:
                found.append(frozenset(np.unique(sample.labels[name]).tolist()))

    def remarks(self, *, whole: bool) -> tuple[str, ...]:
        """Return a sentence per task with classes that no label holds; `whole` says that every label was looked at.

        Of a sample of images with one class each, which may lack some by chance, only what 10 labels per class support is told.
        """
        lines = [line for task in self._tasks if (line := self._line(task, whole=whole))]
        more = [f"... and {len(lines) - _SHOWN} more tasks with such classes"] if len(lines) > _SHOWN else []
        return (*lines[:_SHOWN], *more)

    def _line(self, task: Task, *, whole: bool) -> str | None:
        found = self._found[task.name]
        one_each = task.kind is TaskKind.CLASSIFICATION
        if not found or (one_each and not whole and len(found) < _OFTEN * len(task.classes)):
            return None
        held = frozenset().union(*found)
        absent = [f"{i} ({name})" for i, name in enumerate(task.classes) if i not in held]
        if not absent:
            return None
        told = ", ".join(absent[:_SHOWN]) + (f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else "")
        labels = "the label" if len(found) == 1 else f"the {len(found)} labels"
        what = "none" if one_each else "no pixel"
        advice = "" if whole else "; --all reads every image"
        return f"{task.name}: {what} of {labels} read is of class {told}{advice}"

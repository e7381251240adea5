"""What both forms of Omniglot share: the size of a drawing, and the task of an alphabet."""

from __future__ import annotations

from collections.abc import Sequence

from bmtas.tasks import Task, TaskKind

SIDE = 105
"""Height and width of a drawing."""


def task_of(alphabet: str, characters: Sequence[str]) -> Task:
    """Return the task of an alphabet, whose name loses what no task may be called: Japanese_(katakana) its brackets."""
    name = "".join(c for c in alphabet if c.isalnum() or c in "-_").strip("_")
    return Task(name=name, kind=TaskKind.CLASSIFICATION, classes=tuple(characters))

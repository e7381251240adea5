"""Every label is read once before anything long begins, so that a wrong one is not met hours later."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bmtas.data.folder import FolderDataset
from bmtas.data.protocol import Dataset
from bmtas.errors import BmtasError, UsageError
from bmtas.files import cache_folder, write_text
from bmtas.progress import Progress
from bmtas.tasks import Task

_SHOWN = 5  # problems in one message


def check_labels(dataset: Dataset, tasks: Sequence[Task], progress: Progress) -> None:
    """Load every image of a folder with the labels of `tasks`. Raises UsageError listing what is wrong.

    Data that were checked before and have not changed are not read again; generated data need no check.
    """
    if not isinstance(dataset, FolderDataset):
        return
    names = [task.name for task in tasks]
    mark = cache_folder() / "checked" / f"{dataset.fingerprint()}-{'+'.join(names)}"
    if mark.exists():
        progress.note(_counts(dataset, names))
        return
    progress.start("check data", sum(len(dataset.ids(split)) for split in dataset.splits))
    problems = list(check(dataset, tasks=names, tick=progress.advance))
    if problems:
        raise UsageError(f"{dataset.name}: {len(problems)} problems in images and labels:\n{_by_cause(problems)}")
    progress.note(_counts(dataset, names))
    with contextlib.suppress(OSError, BmtasError):  # a cache that cannot be written costs time, nothing else
        write_text(mark, "")


def _by_cause(problems: Sequence[str]) -> str:
    """Return a line per kind of problem: its first message, and how many more files have it."""
    causes: dict[str, list[str]] = {}
    for problem in problems:
        # Messages of one cause differ in the file that they begin with, and in numbers.
        causes.setdefault(re.sub(r"\S*[/\\]\S*|\d+", "#", problem), []).append(problem)
    lines = [
        found[0] + (f" (and {len(found) - 1} more files with the same problem)" if len(found) > 1 else "")
        for found in causes.values()
    ]
    more = [f"... and {len(lines) - _SHOWN} more kinds of problems"] if len(lines) > _SHOWN else []
    return "\n".join(lines[:_SHOWN] + more)


def _counts(dataset: FolderDataset, names: Sequence[str]) -> str:
    """Return how many images each split has, and which tasks lack labels for some of them."""
    sizes = ", ".join(f"{len(dataset.ids(split))} {split}" for split in dataset.splits)
    total = sum(len(dataset.ids(split)) for split in dataset.splits)
    labelled = {name: dataset.label_count(name) for name in names}
    lacking = [f"{name} has labels for {n} of {total}" for name, n in labelled.items() if n < total]
    return f"images: {sizes}" + (
        f"; {'; '.join(lacking)}: is a suffix or a folder wrong?" if lacking else "; all labelled"
    )


def check(
    dataset: Dataset,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Load every image with its labels and yield each problem as one message; do not stop at the first.

    `tasks` names the labels that are read (None: all), `limit` bounds the images per split (the first ones); `tick` is
    called after each image.
    """
    names = [task.name for task in dataset.tasks] if tasks is None else list(tasks)
    splits = getattr(dataset, "splits", ("train", "val"))
    jobs = [(split, index) for split in splits for index in range(len(dataset.ids(split)[:limit]))]
    with ThreadPoolExecutor(max_workers=2) as pool:  # decoding releases the interpreter for most of its time
        for found in pool.map(lambda job: _problems(dataset, job[0], job[1], names), jobs):
            yield from found
            tick()


def _problems(dataset: Dataset, split: str, index: int, names: Sequence[str]) -> list[str]:
    """Return what is wrong with an image and its labels."""
    if _problem(dataset, split, index, names) is None:
        return []
    # Task by task: a load stops at its first problem; a broken image breaks all: say it once.
    found = (_problem(dataset, split, index, tasks) for tasks in ([], *([name] for name in names)))
    return list(dict.fromkeys(problem for problem in found if problem is not None))


def _problem(dataset: Dataset, split: str, index: int, tasks: Sequence[str]) -> str | None:
    try:
        dataset.load(split, index, size=dataset.size, tasks=tasks)
    except UsageError as error:
        return str(error)
    return None

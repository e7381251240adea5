"""What is wrong in images and labels is found before anything long begins, so that it is not met hours later."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bmtas.data.chosen import labelled, require_labelled, splits_of, spread
from bmtas.data.downloads.base import Download
from bmtas.data.folder import FolderDataset
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import BmtasError, UsageError
from bmtas.files import cache_folder, write_text
from bmtas.progress import Progress
from bmtas.tasks import Task

SHOWN = 5
"""So many problems, or missing files, are told one by one."""

_SAMPLE = 50  # images of each split of a download that are read before a search


def check_labels(dataset: Dataset, tasks: Sequence[Task], progress: Progress) -> None:
    """Load the images of a folder with the labels of `tasks`. Raises UsageError listing what is missing or wrong.

    Of people's own images all are read; of a downloaded data set, which others have read before, a sample: 50 of each
    split that have a label of `tasks`; `train` and `val` must hold some. Data that were checked before and have not changed
    are not read again; generated data need no check.
    """
    if not isinstance(dataset, (FolderDataset, Download)):
        return
    names = [task.name for task in tasks]
    for split in ("train", "val"):
        require_labelled(dataset, split, names)
    # A file's name has no room for those of fifty tasks.
    chosen = hashlib.sha256("\n".join(names).encode()).hexdigest()
    mark = cache_folder() / "checked" / f"{dataset.fingerprint()}-{chosen}"
    if mark.exists():
        progress.note(_counts(dataset, names))
        return
    limit = None
    if isinstance(dataset, Download):
        limit = _SAMPLE
        missing = dataset.missing(names)
        if missing:
            raise UsageError(f"{dataset.name}: {missing_files(missing)}")
    progress.start("check data", len(to_check(dataset, names, limit)))
    problems = list(check(dataset, tasks=names, limit=limit, tick=progress.advance))
    if problems:
        lines = "\n".join(cause_lines(causes(problems)))
        raise UsageError(f"{dataset.name}: {len(problems)} problems in images and labels:\n{lines}")
    progress.note(_counts(dataset, names))
    with contextlib.suppress(OSError, BmtasError):  # a cache that cannot be written costs time, nothing else
        write_text(mark, "")


def missing_files(missing: Sequence[Path]) -> str:
    """Return how many files are missing, and the first of them."""
    more = f"\n... and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    lines = "\n".join(str(path) for path in missing[:SHOWN])
    found = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
    return f"{found} missing; complete the download:\n{lines}{more}"


def causes(problems: Sequence[str]) -> list[tuple[str, int]]:
    """Return the first message of each kind of problem, and in how many files it was met."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        # Messages of one cause differ in the file that they begin with, and in numbers.
        found.setdefault(re.sub(r"\S*[/\\]\S*|\d+", "#", problem), []).append(problem)
    return [(messages[0], len(messages)) for messages in found.values()]


def cause_lines(found: Sequence[tuple[str, int]]) -> list[str]:
    """Return a line per kind of problem in `causes`: its first message, and how many more files have it; not too many."""
    lines = [
        message + (f" (and {count - 1} more files with the same problem)" if count > 1 else "")
        for message, count in found[:SHOWN]
    ]
    more = [f"... and {len(found) - SHOWN} more kinds of problems"] if len(found) > SHOWN else []
    return lines + more


def _counts(dataset: FolderDataset | Download, names: Sequence[str]) -> str:
    """Return how many images of each split are used, and which tasks lack labels for some of them."""
    used = {split: len(labelled(dataset, split, names)) for split in dataset.splits}
    sizes = ", ".join(f"{count} {split}" for split, count in used.items())
    total = sum(used.values())
    others = sum(len(dataset.ids(split)) for split in dataset.splits) - total
    counts = {name: dataset.label_count(name) for name in names}
    few = {name: n for name, n in counts.items() if n < total}
    lacking = [f"{name} has labels for {n} of {total}" for name, n in few.items()]
    if len(few) > SHOWN:
        lacking = [f"{len(few)} tasks have labels for {min(few.values())} to {max(few.values())} of {total}"]
    # In people's own folders this is often a mistake, in a download it is how the data set is made.
    doubt = ": is a suffix or a folder wrong?" if isinstance(dataset, FolderDataset) else ""
    if others:
        lacking.append(f"{others} more have no label of these tasks and are left out")
    return f"images: {sizes}" + (f"; {'; '.join(lacking)}{doubt}" if lacking else "; all labelled")


def to_check(dataset: Dataset, tasks: Sequence[str], limit: int | None) -> list[tuple[str, int]]:
    """Return the split and the index of each image that `check` reads.

    At most `limit` of each split, spread evenly over the images with a label of `tasks`; for None all of the split.
    """
    jobs: list[tuple[str, int]] = []
    for split in splits_of(dataset):
        if limit is None:
            jobs += [(split, index) for index in range(len(dataset.ids(split)))]
        else:
            indices = labelled(dataset, split, tasks)
            jobs += [(split, indices[i]) for i in spread(len(indices), limit)]
    return jobs


def check(
    dataset: Dataset,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
    look: Callable[[Sample], object] = lambda _: None,
) -> Iterator[str]:
    """Load images with their labels and yield each problem as one message; do not stop at the first.

    `tasks` names the labels that are read (None: all); `limit` and `tasks` choose the images as `to_check` does; `tick` is
    called after each image, `look` with each one that is in order, from several threads. Files of a download that are not there are no problem here: `Download.missing` tells them.
    """
    names = [task.name for task in dataset.tasks] if tasks is None else list(tasks)
    jobs = to_check(dataset, names, limit)
    with ThreadPoolExecutor(max_workers=2) as pool:  # decoding releases the interpreter for most of its time
        for found in pool.map(lambda job: _problems(dataset, job[0], job[1], names, look), jobs):
            yield from found
            tick()


def _problems(
    dataset: Dataset, split: str, index: int, names: Sequence[str], look: Callable[[Sample], object]
) -> list[str]:
    """Return what is wrong with an image and its labels."""
    if _problem(dataset, split, index, names, look) is None:
        return []
    # Task by task: a load stops at its first problem; a broken image breaks all: say it once.
    found = (_problem(dataset, split, index, tasks) for tasks in ([], *([name] for name in names)))
    problems = dict.fromkeys(problem for problem in found if problem is not None)
    absent = dataset.missing_of(split, index, names) if isinstance(dataset, Download) else []
    return [problem for problem in problems if not any(str(path) in problem for path in absent)]


def _problem(
    dataset: Dataset, split: str, index: int, tasks: Sequence[str], look: Callable[[Sample], object] = lambda _: None
) -> str | None:
    try:
        look(dataset.load(split, index, size=dataset.size, tasks=tasks))
    except UsageError as error:
        return str(error)
    return None

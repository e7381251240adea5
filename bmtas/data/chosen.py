"""Which images of a data set are meant: its splits, those with labels of some tasks, and a sample spread over many."""

from __future__ import annotations

from collections.abc import Sequence

from bmtas.data.protocol import Dataset, TellsLabelled
from bmtas.errors import UsageError


def splits_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the splits of a data set; generated ones have `train` and `val`."""
    return tuple(getattr(dataset, "splits", ("train", "val")))


def spread(count: int, limit: int | None) -> Sequence[int]:
    """Return at most `limit` of `count` indices, ascending and evenly spread; all of them for None."""
    if limit is None or limit >= count:
        return range(count)
    return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]


def labelled(dataset: Dataset, split: str, tasks: Sequence[str]) -> Sequence[int]:
    """Return the indices in `split`, ascending, of the images that can have a label of one of `tasks`.

    All of them for data that cannot tell, such as generated ones. No pixels are read. Raises UsageError for unknown names.
    """
    if not tasks or not isinstance(dataset, TellsLabelled):
        return range(len(dataset.ids(split)))
    return dataset.labelled(split, tasks)


def require_labelled(dataset: Dataset, split: str, tasks: Sequence[str]) -> Sequence[int]:
    """Return what `labelled` does. Raises UsageError, too, where no image of the split can have a label."""
    indices = labelled(dataset, split, tasks)
    if not len(indices) and len(dataset.ids(split)):
        raise UsageError(
            f"{dataset.name}: no image of the split {split!r} has a label of {', '.join(tasks)}; choose other tasks, or "
            "complete the labels"
        )
    return indices

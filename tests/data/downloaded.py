"""What the tests of all downloaded data sets ask: open a folder, be refused, and see that nothing in it has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bmtas.data.downloads.base import Download
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError


def state(root: Path) -> dict[str, str]:
    """Return a digest of every file below `root`."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def opened(path: Path) -> Download:
    dataset = open_dataset(str(path))
    assert isinstance(dataset, Download)
    return dataset


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_dataset(str(path))
    return str(caught.value)


def loading(dataset: Download, split: str = "train", index: int = 0, *tasks: str) -> str:
    """Return with which words a sample is refused."""
    with pytest.raises(UsageError) as caught:
        dataset.load(split, index, size=dataset.size, tasks=tasks or [t.name for t in dataset.tasks])
    return str(caught.value)

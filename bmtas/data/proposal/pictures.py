"""Some images with all their labels, below each other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bmtas.data.chosen import spread
from bmtas.data.folder import FolderDataset
from bmtas.data.proposal.found import Proposal
from bmtas.data.proposal.own import SOFTWARE
from bmtas.data.protocol import Sample
from bmtas.data.sample_picture import draw_sample
from bmtas.files import atomic_path

_LONGEST_SIDE = 320  # of an image, so that a row of tasks stays readable


def draw_samples(dataset: FolderDataset, count: int, path: Path) -> int:
    """Draw `count` images, those with the most labels, spread over the training split, into the PNG file `path`.

    Returns how many were drawn: fewer where the split has fewer. Raises UsageError where a file cannot be read.
    """
    samples = _chosen(dataset, count)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number, sample in enumerate(samples):
            file = Path(folder) / f"{number}.png"
            draw_sample(sample, dataset.tasks, file)
            with Image.open(file) as picture:
                rows.append(picture.convert("RGB"))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    mark = PngInfo()
    mark.add_text(*SOFTWARE)
    with atomic_path(path, option="--picture") as temporary:
        sheet.save(temporary, format="PNG", pnginfo=mark)
    return len(rows)


def folder_of_data(proposal: Proposal, path: Path) -> Path | None:
    """Return the folder of images or labels in which a file at `path` would stand, where it could be read as one of them."""
    streams = [proposal.images, *(task.stream for task in proposal.tasks if task.stream is not None)]
    read = [proposal.root.joinpath(*before, *stream.role) for stream in streams for before in sorted(stream.befores)]
    linked = {file.parent for stream in streams for file in stream.files.values()}
    place = path.parent.resolve()
    return next((folder for folder in (*read, *sorted(linked)) if place.is_relative_to(folder.resolve())), None)


def _chosen(dataset: FolderDataset, count: int) -> list[Sample]:
    names = [task.name for task in dataset.tasks]
    having = {name: set(dataset.labelled("train", [name])) for name in names}
    labels = {index: sum(index in found for found in having.values()) for index in range(len(dataset.ids("train")))}
    most = [index for index, found in labels.items() if found == max(labels.values())]
    shrink = min(1.0, _LONGEST_SIDE / max(dataset.size))
    size = (max(8, round(dataset.size[0] * shrink)), max(8, round(dataset.size[1] * shrink)))
    return [dataset.load("train", most[i], size=size, tasks=names) for i in spread(len(most), count)]

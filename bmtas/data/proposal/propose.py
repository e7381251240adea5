"""A folder is looked at, and a manifest proposed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bmtas.data.chosen import spread
from bmtas.data.folder_splits import some
from bmtas.data.manifest import IMAGE_SUFFIXES
from bmtas.data.proposal.class_names import for_stream, read_class_names
from bmtas.data.proposal.found import Meaning, Proposal, ProposedTask, Refused
from bmtas.data.proposal.guess import guess_kind, looks_like_ids
from bmtas.data.proposal.layout import Layout, Stream, find_layout
from bmtas.data.proposal.listing import Listing, list_files
from bmtas.data.proposal.sizes import find_size
from bmtas.data.proposal.splits import Wanted, find_splits
from bmtas.data.proposal.tables import Table, find_tables
from bmtas.data.proposal.values import count_values, look_at, sample_size
from bmtas.data.proposal.words import words_of
from bmtas.data.stored import array_shape, image_size
from bmtas.errors import UsageError
from bmtas.progress import Progress, Silent
from bmtas.tasks import RESERVED_NAMES

_COMPARED = 5  # labels of each task whose size is held against that of their image

LAYOUTS = """\
A layout that is understood, with names of your choice for what is not images:
  images/0001.jpg  semseg/0001.png  depth/0001.png     a folder per task, the same names in each
  0001_rgb.png  0001_semseg.png  0001_depth.png        or all in one folder, told apart by the ends of the names
  rgb_0001.png  depth_0001.png                         or by the words before a number, in one folder or in several
  train/images/0001.jpg  train/depth/0001.png          or either of these below train/, val/ and test/, or the other way round
  images/0001.jpg  scene.csv                           and one class per image in a table with the columns id and label
Or write the manifest by hand: examples/own-data.yaml explains every key."""


def propose(folder: Path, progress: Progress | None = None) -> Proposal:
    """Return a manifest for the images and labels in `folder`, with what speaks for each of its values.

    A sample of every task's files is looked at; where they hold classes, the values of all are counted. Nothing is written.
    Raises UsageError where no images, or none with labels, are found, with what was seen and which layout would do.
    """
    progress = progress or Silent()
    _refuse_known(folder)
    listing = list_files(folder)
    layout = find_layout(listing)
    if layout is None or not layout.images.files:
        raise UsageError(f"{folder}: no images were found among {_seen(listing)}\n{LAYOUTS}")
    _check_befores(layout)
    names, not_names = read_class_names(folder, listing.texts)
    tables, refused_tables = find_tables(folder, listing.texts, layout.images.files, layout.images.head, names)
    tasks, refused, remarks = _tasks(layout, names, progress)
    tasks += _of_tables(tables, {task.name for task in tasks})
    refused += refused_tables
    if not tasks:
        told = "".join(f"\n- {r.title}: {r.found}; {r.remedy}" for r in refused)
        what = f"nothing that pairs with them can be a task:{told}" if refused else "no labels pair with them by name"
        raise UsageError(
            f"{folder}: {len(layout.images.files)} images were found ({layout.images.title or 'in the folder itself'}), but {what}\n"
            f"seen: {_seen(listing)}\n{LAYOUTS}"
        )
    labelled = _labelled(tasks, tables)
    usable = tuple(name for name in layout.images.files if name in labelled)
    progress.start("sizes of images", len(usable))
    size, size_why = find_size([layout.images.files[name] for name in usable], progress.advance)
    wanted = Wanted(
        layout.images.files,
        usable,
        layout.images.role,
        layout.images.head,
        _suffix(layout.images),
        _alone(layout, listing),
    )
    splits = find_splits(folder, listing.texts, wanted)
    return Proposal(
        folder=folder,
        root=layout.root,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip(".-_") or "data",
        parted=layout.parted,
        images=layout.images,
        usable=usable,
        size=size,
        size_why=size_why,
        tasks=tuple(tasks),
        splits=splits,
        refused=tuple(refused),
        remarks=(*_unused(layout, listing), *_bare(layout, usable), *not_names, *remarks),
    )


def _refuse_known(folder: Path) -> None:
    """Raise UsageError if the folder needs no manifest."""
    from bmtas.data.downloads.detect import detect_layout

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder in which images and labels lie")
    try:
        known = detect_layout(folder.resolve())
    except UsageError:
        return  # looks like a download in part only: it may be somebody's own
    if known is not None:
        raise UsageError(
            f"{folder} is {known.name} ({known.variant}), which is read as it is: no manifest is needed. "
            f"Go on with: bmtas data check {folder}"
        )


def _check_befores(layout: Layout) -> None:
    """Raise UsageError where one folder of images lies above another's role, which neither a manifest nor links can say."""
    befores = sorted(layout.images.befores)
    for short, long in itertools.pairwise(befores):
        if long[: len(short)] == short:
            places = " and ".join("/".join((*before, *layout.images.role)) for before in (short, long))
            raise UsageError(
                f"{layout.root}: images lie in {places}, one beside the other's folders; name the folder of one of them, or move "
                f"them to the same depth\n{LAYOUTS}"
            )


def _tasks(
    layout: Layout, names: dict[str, tuple[str, ...]], progress: Progress
) -> tuple[list[ProposedTask], list[Refused], list[str]]:
    """Look at the files of every stream and return the tasks, what cannot be one, and remarks."""
    tasks: list[ProposedTask] = []
    refused: list[Refused] = []
    remarks: list[str] = []
    for stream in sorted(layout.labels, key=lambda s: (s.role, s.head, s.tail or "")):
        if stream.strays:
            stray = some(path.name for path in stream.strays)
            remarks.append(f"{stream.title}: {len(stream.strays)} of its files pair with no image: {stray}")
        others = [word for other in layout.labels if other is not stream for word in _words(other)]
        meaning, problems = _meaning(layout, stream, for_stream(names, _words(stream), others), progress)
        if problems:
            remarks.append(f"{stream.title}: {len(problems)} files cannot be read, the first: {problems[0]}")
        if isinstance(meaning, Refused):
            refused.append(meaning)
            continue
        name = _name(stream, meaning, {task.name for task in tasks})
        tasks.append(ProposedTask(name, meaning, stream, None, len(stream.files)))
    return tasks, refused, remarks


def _meaning(
    layout: Layout, stream: Stream, names: dict[str, tuple[str, ...]], progress: Progress
) -> tuple[Meaning | Refused, list[str]]:
    files = list(stream.files.values())
    progress.start(f"look at {stream.title}", sample_size(files))
    looks, problems = look_at(files, progress.advance)
    if not looks:
        return Refused(stream.title, "no file that can be read", "replace the files"), problems
    unlike = _other_size(layout, stream)
    if unlike is not None:
        return unlike, problems
    counts = None
    if looks_like_ids(stream, looks):
        progress.start(f"count values of {stream.title}", len(files))
        counts, problems = count_values(files, progress.advance)
    return guess_kind(stream, looks, counts, names), problems


def _other_size(layout: Layout, stream: Stream) -> Refused | None:
    """Return a refusal if the labels have another size than their images."""
    ids = list(stream.files)
    sizes: list[tuple[tuple[int, ...], tuple[int, int]]] = []
    for name in (ids[i] for i in spread(len(ids), _COMPARED)):
        label = stream.files[name]
        try:
            own = array_shape(label) if label.suffix.lower() == ".npy" else image_size(label)
            if len(own) == 2 or own[2:] == (3,):
                sizes.append((own[:2], image_size(layout.images.files[name])))
        except UsageError:
            continue
    if not sizes or any(own == image for own, image in sizes):
        return None
    own, image = sizes[0]
    return Refused(
        stream.title,
        f"{'x'.join(map(str, own))} (height x width), its image {image[0]}x{image[1]}",
        "a label has the size of its image: resize the labels (nearest neighbour), or the images",
    )


def _of_tables(tables: Iterable[Table], taken: set[str]) -> list[ProposedTask]:
    tasks: list[ProposedTask] = []
    for table in tables:
        name = _free(_clean(table.path.stem) or "classes", taken)
        taken.add(name)
        tasks.append(ProposedTask(name, table.meaning, None, table.path, len(table.ids)))
    return tasks


def _labelled(tasks: Sequence[ProposedTask], tables: Iterable[Table]) -> set[str]:
    found = {name for task in tasks if task.stream is not None for name in task.stream.files}
    return found | {name for table in tables for name in table.ids}


def _words(stream: Stream) -> list[str]:
    return [word for name in stream.names for word in (name.lower(), *words_of(name))]


def _name(stream: Stream, meaning: Meaning, taken: set[str]) -> str:
    """Return a name for a task: the last part of its place that says something, or its kind."""
    names = [_clean(name) for name in reversed(stream.names)]
    return _free(next((name for name in names if name), meaning.kind.value), taken)


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")


def _free(name: str, taken: set[str]) -> str:
    name = f"{name}_task" if name in RESERVED_NAMES or name == "images" else name
    choices = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(choice for choice in choices if choice not in taken)


def _suffix(images: Stream) -> str:
    return images.tail or next(iter(images.files.values())).suffix


def _alone(layout: Layout, listing: Listing) -> bool:
    """Return whether no file but the images is in their folder and ends as they do, so that the folder stands for them."""
    folder = layout.root.joinpath(*layout.images.role)
    ends = (layout.images.tail,) if layout.images.tail else IMAGE_SUFFIXES
    images = set(layout.images.files.values())
    paths = (listing.root.joinpath(*family.parts, name) for family in listing.plain for name in family.files.values())
    return all(
        path in images
        or not path.is_relative_to(folder)
        or not path.name.startswith(layout.images.head)
        or not path.name.lower().endswith(tuple(e.lower() for e in ends))
        for path in paths
    )


def _unused(layout: Layout, listing: Listing) -> list[str]:
    remarks = []
    if layout.unused:
        files = sum(len(family.files) for family in layout.unused)
        places = dict.fromkeys("/".join(family.parts) or "the folder itself" for family in layout.unused)
        first = next(iter(layout.unused[0].files.values()))
        remarks.append(f"{files} files pair with no image by name and are not used, such as {first}: in {some(places)}")
    unread = {end: count for end, count in listing.unread.items() if end in _DATA}
    if unread:
        kinds = ", ".join(f"{count} {end}" for end, count in unread.items())
        remarks.append(f"not read: {kinds}; labels are read from {', '.join(dict.fromkeys(('.png', '.tif', '.npy')))}")
    return remarks


_DATA = (
    ".mat",
    ".npz",
    ".exr",
    ".pfm",
    ".h5",
    ".hdf5",
    ".xml",
    ".tfrecord",
    ".pt",
    ".pth",
    ".pkl",
    ".zip",
    ".tar",
    ".gz",
)


def _bare(layout: Layout, usable: Sequence[str]) -> list[str]:
    bare = [name for name in layout.images.files if name not in set(usable)]
    if not bare:
        return []
    return [
        f"{len(bare)} of {len(layout.images.files)} images have no label of any task and are left out: {some(bare)}"
    ]


def _seen(listing: Listing) -> str:
    """Return in words what a folder holds."""
    if not listing.count():
        kinds = ", ".join(f"{count} {end}" for end, count in list(listing.unread.items())[:5])
        return (
            f"no files that could be images ({', '.join(IMAGE_SUFFIXES)}), but {kinds}" if kinds else "no files at all"
        )
    folders: dict[str, int] = {}
    for family in listing.plain:
        place = "/".join(family.parts) or "."
        ends = ", ".join(family.suffixes)
        folders[f"{place} ({ends})"] = folders.get(f"{place} ({ends})", 0) + len(family.files)
    shown = "; ".join(f"{place} {count} files" for place, count in list(folders.items())[:6])
    return shown + (f"; and {len(folders) - 6} more folders" if len(folders) > 6 else "")

"""A proposal as YAML, in which every guess has its reason beside it; read back and checked before it gets its name."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from bmtas.data.check import cause_lines, causes, check, to_check
from bmtas.data.folder import FolderDataset, open_folder
from bmtas.data.manifest import IMAGE_SUFFIXES, TaskSpec
from bmtas.data.proposal.found import Line, Proposal, ProposedTask
from bmtas.data.proposal.ids import quoted
from bmtas.data.proposal.layout import Stream
from bmtas.data.proposal.own import COMPANION, check_own_folder
from bmtas.errors import UsageError
from bmtas.files import atomic_folder, atomic_path
from bmtas.progress import Progress, Silent
from bmtas.tasks import TaskKind

CHECKED = 20
"""Images of each split that are read with their labels before the manifest is written."""

_WIDTH = 118
_IMAGES = "images"


def write_proposal(
    proposal: Proposal, output: Path, *, force: bool = False, progress: Progress | None = None
) -> FolderDataset:
    """Write the manifest `output` and return the data set that it describes.

    Lists of images, and links where a manifest cannot say the layout, go into the folder `companion_of(output)`. Before anything
    gets its name, the manifest is read as any other and a sample of its images is loaded. Raises UsageError where that fails,
    where something would be overwritten without `force`, and where the folder holds what `bmtas init` did not write;
    nothing is written then.
    """
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"{output}: a manifest's name ends in .yaml")
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file by --output")
    companion = companion_of(output)
    for path in (output, companion):
        if not force and (path.exists() or path.is_symlink()):
            raise UsageError(f"{path} exists and is not overwritten; name another file by --output, or add --force")
    needed = _needs_links(proposal) or _needs_lists(proposal)
    if needed and (companion.exists() or companion.is_symlink()):
        check_own_folder(companion)
    with atomic_path(output, option="--output") as temporary, _companion(companion if needed else None) as place:
        if place is not None:
            _fill(proposal, place)
        temporary.write_text(render(proposal, output, place), encoding="utf-8")
        try:
            _check(open_folder(temporary), progress or Silent())
        except UsageError as error:
            raise UsageError(str(error).replace(str(temporary), str(output))) from None
        temporary.write_text(render(proposal, output, companion if needed else None), encoding="utf-8")
    return open_folder(output)


def companion_of(output: Path) -> Path:
    """Return the folder for lists and links beside a manifest."""
    return output.with_name(f"{output.stem}{COMPANION}")


def render(proposal: Proposal, output: Path, companion: Path | None) -> str:
    """Return the manifest as YAML; `output` is where it will stand, `companion` the folder with lists and links."""
    linked = companion is not None and _needs_links(proposal)
    root = _relative(companion if linked and companion is not None else proposal.root, output.parent)
    lines = [
        f"# What `bmtas init {shlex.quote(str(proposal.folder))}` found. Every value is a guess, its reason stands beside it: change what is wrong,",
        f"# then look at it with: bmtas data check {shlex.quote(str(output))}. All keys: examples/own-data.yaml.",
        *(f"# - {_plain(remark)}" for remark in proposal.remarks),
        *(f"# - not used, {_plain(r.title)}: {_plain(r.found)}. {_plain(r.remedy)}" for r in proposal.refused),
        "",
        f"name: {quoted(proposal.name)}",
        f"root: {_scalar(root)}",
        *_lined("", f"size: [{proposal.size[0]}, {proposal.size[1]}]", f"height, width: {proposal.size_why}"),
        "",
        "images:",
        *_lined(
            "  ", f"folder: {_scalar(_folder(proposal.images, _IMAGES if linked else None))}", _images_why(proposal)
        ),
        *_name_lines(proposal.images, IMAGE_SUFFIXES, "  "),
        "",
        "tasks:",
    ]
    for task in proposal.tasks:
        lines += _task_lines(proposal, task, linked, root, output)
    return "\n".join([*lines, *_split_lines(proposal, companion, root, output)]) + "\n"


def _task_lines(proposal: Proposal, task: ProposedTask, linked: bool, root: str, output: Path) -> list[str]:
    meaning, total = task.meaning, len(proposal.images.files)
    why = f"{task.labels} of {total} images have a label"
    lines = ["", f"  {task.name}:", *(f"    # doubt: {_plain(doubt)}" for doubt in meaning.doubts)]
    lines += _lined("    ", f"kind: {meaning.kind.value}", meaning.evidence)
    if task.stream is None:
        place = _relative((task.file or Path()).resolve(), (output.parent / root).resolve())
        lines += _lined("    ", f"file: {_scalar(place)}", why)
    else:
        lines += _lined("    ", f"folder: {_scalar(_folder(task.stream, task.name if linked else None))}", why)
        lines += _name_lines(task.stream, _default_suffixes(task), "    ")
    for line in meaning.lines:
        lines += _key_lines(line)
    return lines


def _key_lines(line: Line) -> list[str]:
    if line.alternative:
        return _lined("    # ", f"{line.key}: {line.value}", line.why)
    return _lined("    ", f"{line.key}: {line.value}", line.why)


def _split_lines(proposal: Proposal, companion: Path | None, root: str, output: Path) -> list[str]:
    splits = proposal.splits
    lines = ["", f"# {_plain(splits.why)}", *(f"# doubt: {_plain(doubt)}" for doubt in splits.doubts), "splits:"]
    if splits.fraction is not None:
        return [
            *lines,
            *_lined("  ", f"val: {splits.fraction:g}", "the rest is for training; lists of names would do as well"),
        ]
    base = (output.parent / root).resolve()
    for split, ids in splits.lists.items():
        path = splits.files.get(split) or (companion or Path()) / f"{split}.txt"
        lines += _lined("  ", f"{split}: {_scalar(_relative(path, base))}", f"{len(ids)} images")
    return lines


def _fill(proposal: Proposal, place: Path) -> None:
    """Write the lists that the folder has not itself, and the links, into `place`."""
    for split, ids in proposal.splits.lists.items():
        if split not in proposal.splits.files:
            (place / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    if not _needs_links(proposal):
        return
    named = [(_IMAGES, proposal.images), *((task.name, task.stream) for task in proposal.tasks if task.stream)]
    for name, stream in named:
        for before in sorted(stream.befores):
            link = place.joinpath(name, *before)
            link.parent.mkdir(parents=True, exist_ok=True)
            target = proposal.root.joinpath(*before, *stream.role).resolve()
            link.symlink_to(os.path.relpath(target, link.parent.resolve()), target_is_directory=True)


def _check(dataset: FolderDataset, progress: Progress) -> None:
    """Load a sample of every split. Raises UsageError with what is wrong."""
    names = [task.name for task in dataset.tasks]
    progress.start("check the manifest", len(to_check(dataset, names, CHECKED)))
    problems = list(check(dataset, tasks=names, limit=CHECKED, tick=progress.advance))
    if problems:
        told = "\n".join(cause_lines(causes(problems)))
        raise UsageError(f"no manifest was written, because images or labels are wrong; mend or remove them:\n{told}")


@contextlib.contextmanager
def _companion(path: Path | None) -> Iterator[Path | None]:
    if path is None:
        yield None
    else:
        with atomic_folder(path, "--output") as folder:
            yield folder


def _needs_links(proposal: Proposal) -> bool:
    return proposal.parted


def _needs_lists(proposal: Proposal) -> bool:
    return any(split not in proposal.splits.files for split in proposal.splits.lists)


def _folder(stream: Stream, link: str | None) -> str:
    return link or "/".join(stream.role) or "."


def _name_lines(stream: Stream, default: Sequence[str], indent: str) -> list[str]:
    """Return the keys `prefix` and `suffix` where names need them: words of their own, or an ending that is not read by default."""
    lines = [f"{indent}prefix: {_scalar(stream.head)}"] if stream.head else []
    if stream.tail is not None:
        return [*lines, f"{indent}suffix: {_scalar(stream.tail)}"]
    ends = {path.suffix.lower() for path in stream.files.values()}
    if len(ends) == 1 and (ends - set(default) or len(default) > 1):
        lines += [f"{indent}suffix: {end}" for end in ends]
    return lines


def _default_suffixes(task: ProposedTask) -> tuple[str, ...]:
    if task.meaning.kind is TaskKind.CLASSIFICATION:
        return ()
    spec = {"kind": task.meaning.kind.value, "folder": ".", "scale": "1"}
    keys = (
        ("kind", "folder", "scale")
        if task.meaning.kind in (TaskKind.DEPTH, TaskKind.REGRESSION)
        else ("kind", "folder")
    )
    encoding = task.meaning.value("encoding")
    return TaskSpec.model_validate(
        {key: spec[key] for key in keys} | ({"encoding": encoding} if encoding else {})
    ).suffixes


def _images_why(proposal: Proposal) -> str:
    count = len(proposal.images.files)
    links = "; links, because a manifest has one folder for the images of all splits" if proposal.parted else ""
    return f"{count} images" + links


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def _scalar(text: str) -> str:
    """Return a path or the end of a name as YAML, plain where that is safe."""
    return text if re.fullmatch(r"[A-Za-z0-9_./]+(?:[A-Za-z0-9_./ ()+-]*[A-Za-z0-9_./)+])?", text) else quoted(text)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _lined(indent: str, text: str, why: str) -> list[str]:
    """Return a line of YAML with its reason behind it, or above it where both are long."""
    line, reason = indent + text, _plain(why)
    if not reason:
        return [line]
    if len(line) + len(reason) + 4 <= _WIDTH:
        return [f"{line}  # {reason}"]
    blank = indent.replace("#", " ").rstrip()
    return [f"{' ' * (len(indent.replace('# ', '')))}# {reason}" if not blank else f"{indent}# {reason}", line]

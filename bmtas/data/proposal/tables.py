"""Tables of one class per image."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmtas.data.folder_splits import to_id
from bmtas.data.proposal.found import Line, Meaning, Refused
from bmtas.data.proposal.ids import quoted
from bmtas.tasks import TaskKind

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Table:
    """A table of classes: its file, what it means, and the images that have a class."""

    path: Path
    meaning: Meaning
    ids: frozenset[str]


def find_tables(
    root: Path, texts: Sequence[Path], images: Collection[str], prefix: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[list[Table], list[Refused]]:
    """Return the CSV files that give images a class, and those that name images and cannot be read as such.

    `images` are ids, `prefix` is what the names of their files begin with.
    """
    found: list[Table] = []
    refused: list[Refused] = []
    for path in texts:
        if path.suffix.lower() != ".csv":
            continue
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, skipinitialspace=True))
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        result = _read(root, path, rows, images, prefix, names)
        if isinstance(result, Refused):
            refused.append(result)
        elif result is not None:
            found.append(result)
    return found, refused


def _read(
    root: Path,
    path: Path,
    rows: list[dict[str, str]],
    images: Collection[str],
    prefix: str,
    names: Mapping[str, tuple[str, ...]],
) -> Table | Refused | None:
    title = path.relative_to(root).as_posix()
    columns = [column for column in (rows[0] if rows else {}) if column is not None]
    naming = [
        column
        for column in columns
        if any(to_id((row[column] or "").strip(), images, prefix, ()) in images for row in rows[:50])
    ]
    if not naming:
        return None
    if naming[0] != "id" or "label" not in columns:
        return Refused(
            title,
            f"a table with the columns {', '.join(columns[:6])}{', ...' if len(columns) > 6 else ''}",
            "one class per image is read from the columns 'id' and 'label': rename the columns, one file for each task",
        )
    labels = {
        row["id"]: (row["label"] or "").strip() for row in rows if row["id"] in images and (row["label"] or "").strip()
    }
    if not labels:
        return Refused(
            title,
            f"ids such as {rows[0]['id']!r}",
            f"an id is the image's path below its folder, without prefix and suffix, here such as {next(iter(images))!r}",
        )
    counts = Counter(labels.values())
    if not 2 <= len(counts) <= min(_MOST_CLASSES, max(2, len(labels) // 2)):
        return Refused(
            title,
            f"{len(counts)} different labels in {len(labels)} images",
            "a class is shared by several images; numbers per image, such as a speed, are no task that bmtas has",
        )
    return Table(path, _classes(counts, names), frozenset(labels))


def _classes(counts: Counter[str], names: Mapping[str, tuple[str, ...]]) -> Meaning:
    few, most = counts.most_common()[-1], counts.most_common(1)[0]
    evidence = f"{len(counts)} classes, {most[0]!r} in {most[1]} images, {few[0]!r} in {few[1]}"
    doubts: list[str] = []
    if all(label.isdecimal() for label in counts):
        top = max(map(int, counts))
        fitting = [title for title, found in names.items() if len(found) == len(set(found)) == top + 1]
        if fitting:
            listed, why = names[fitting[0]], f"names from {fitting[0]}"
        elif top + 1 <= 2 * len(counts):
            listed, why = tuple(map(str, range(top + 1))), "the numbers in the table"
        else:
            listed, why = tuple(sorted(counts, key=int)), "the numbers in the table, in order"
    else:
        listed, why = tuple(sorted(counts)), "the labels in the table, in the order of the alphabet"
        doubts += ["classes that the table does not have yet must be added by hand"]
    line = Line("classes", "[" + ", ".join(quoted(name) for name in listed) + "]", why)
    return Meaning(TaskKind.CLASSIFICATION, (line,), evidence, tuple(doubts))

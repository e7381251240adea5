"""Files of few whole numbers: classes, a mask, or edges."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from bmtas.data.proposal.found import Line, Meaning, Refused
from bmtas.data.proposal.values import Pixels
from bmtas.tasks import IGNORE, TaskKind

_THIN = 0.05  # share of pixels inside a 3 x 3 block of their own; lines of one or two pixels have hardly any
_THICK = 0.5
_RARE = 0.3  # share of positive pixels above which thin structures are texture, not edges
_SPARSE = 2  # ids up to so many times as many as there are values; beyond, the numbers are likely not those of classes
_MOST_MAPPED = 64
_MANY = 50  # files, from which on it is strange that a value is in one of them only
_SIMILAR = 0.5  # share of the ids that must be met before a longer list of names is believed to be theirs

Names = Mapping[str, tuple[str, ...]]


def guess_two_values(
    looks: Sequence[Pixels], counts: Mapping[int, int], files: int, said: Sequence[str], names: Names
) -> Meaning:
    """Return whether files of 0 and 1, or 0 and 255, are edges, two classes or a mask."""
    white = 1 not in counts
    shares = [look.part_255 if white else look.part for look in looks]
    cores = [(look.core_255 if white else look.core) for look, share in zip(looks, shares, strict=True) if share > 0]
    share = float(np.mean(shares))
    core = float(np.median(cores)) if cores else 1.0
    thin = core <= _THIN
    seen = value_evidence(counts, files, white=white)
    lines = f"{share:.1%} of the pixels, {core:.0%} of them inside a 3x3 block of their own"
    doubts: tuple[str, ...] = ()
    if "edge" in said[:1] or (thin and share <= _RARE and not said):
        if core > _THICK:
            doubts = (f"the name says edges, but the lines are thick ({lines})",)
        elif not said:
            doubts = ("taken for edges because the lines are thin, not by the name",)
        kept = (*_ignored(counts, white), _balance(share), Line("kind", "binary", "if these are areas", True))
        return Meaning(TaskKind.EDGE, kept, f"{seen}; thin lines: {lines}" if thin else f"{seen}; {lines}", doubts)
    if said[:1] == ["segmentation"] and not white:
        classes, doubts = class_lines(2, names)
        kept = (*classes, Line("kind", "binary", "if 1 is foreground and 0 the rest; then without 'classes'", True))
        return Meaning(TaskKind.SEGMENTATION, kept, f"{seen}; the name says classes", doubts)
    if thin:
        doubts = (f"the marked areas are thin ({lines}): 'kind: edge' if these are edges",)
    return Meaning(
        TaskKind.BINARY,
        (*_ignored(counts, white), Line("kind", "edge", "if these are lines to be found", True)),
        f"{seen}; {share:.1%} of the pixels are foreground",
        doubts,
    )


def guess_classes(title: str, counts: Mapping[int, int], files: int, names: Names) -> Meaning | Refused:
    """Return the classes of `files` files with more than two values."""
    step = int(np.gcd.reduce([value for value in counts if value != IGNORE]))
    values = [value for value in counts if value != IGNORE or (step > 1 and IGNORE - step in counts)]
    top = max(values)
    seen = value_evidence(counts, files)
    if step > 1 or top >= IGNORE:
        return _mapped(title, values, counts, seen, f"multiples of {step}" if step > 1 else f"up to {top}")
    classes, doubts = class_lines(top + 1, names)
    absent = sorted(set(range(top + 1)) - set(values))
    if absent:
        doubts += (f"{len(absent)} of the ids 0..{top} are in no file: {_some(absent)}",)
    rare = [value for value in values if counts[value] == 1 and files > _MANY]
    if rare:
        doubts += (f"found in one file only: {_some(rare)}; a mistake, or a rare class",)
    lines = [*classes, *_ignored_class(counts)]
    if top + 1 > _SPARSE * len(values) and len(values) <= _MOST_MAPPED:
        lines.append(Line("map", _mapping(values), "with only so many classes, if no others will come", True))
    return Meaning(TaskKind.SEGMENTATION, tuple(lines), seen, doubts)


def _mapped(title: str, values: Sequence[int], counts: Mapping[int, int], seen: str, why: str) -> Meaning | Refused:
    """Return classes whose numbers in the files are not their ids."""
    if len(values) > _MOST_MAPPED:
        return Refused(
            title,
            f"{seen}, {why}",
            "ids of classes go from 0 to 254; write a 'map' from value to id by hand, or the files anew",
        )
    ignored = counts.keys() - set(values)
    lines = (
        Line("classes", str(len(values)), "one for each value; names in their order, such as [road, car], are better"),
        Line("map", _mapping(values), f"the values are {why}, no ids 0, 1, 2, ..."),
        Line(
            "ignore", "255" if ignored else "null", f"255 is in {counts[IGNORE]} files" if ignored else "no other value"
        ),
    )
    return Meaning(TaskKind.SEGMENTATION, lines, seen, (f"the numbers of the classes were given here ({why})",))


def class_lines(count: int, names: Names) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Return the key `classes` for ids below `count`, with names where a list fits, and doubts about them."""
    exact = [title for title, found in names.items() if len(found) == count]
    longer = [title for title, found in names.items() if len(found) > count >= _SIMILAR * len(found)]
    if exact or longer:
        title = (exact or longer)[0]
        found = names[title]
        shown = "[" + ", ".join(quoted(name) for name in found) + "]"
        doubts: tuple[str, ...] = ()
        if not exact:
            doubts = (f"{title} names {len(found)} classes, the ids that were met go to {count - 1}",)
        if len(exact) > 1:
            doubts = (f"lists of {count} names stand in {', '.join(exact)}; the first was taken",)
        return (Line("classes", shown, f"names from {title}"),), doubts
    why = "ids 0 to " + str(count - 1) + "; names, such as [road, car], make reports readable"
    short = [f"{title} names {len(found)} classes" for title, found in names.items() if len(found) < count]
    return (Line("classes", str(count), why),), tuple(f"{text}, the ids go to {count - 1}" for text in short[:1])


def value_evidence(counts: Mapping[int, int], files: int, *, white: bool = False) -> str:
    """Return in words what is in `files` files: `12 distinct values 0..11 in 50 files, 255 in 31 of them`.

    With `white`, 255 is a value as any other.
    """
    values = sorted(value for value in counts if white or value != IGNORE)
    spread = f"{values[0]}..{values[-1]}" if len(values) > 2 else " and ".join(map(str, values))
    text = f"{len(values)} distinct values {spread} in {files} files"
    return text if white else f"{text}, 255 in {counts[IGNORE]} of them" if IGNORE in counts else f"{text}, 255 in none"


def quoted(text: str) -> str:
    """Return a scalar of YAML that reads as `text`, plain where that is safe in a list."""
    plain = re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_. /()+-]*[A-Za-z0-9_)+])?", text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _ignored(counts: Mapping[int, int], white: bool) -> tuple[Line, ...]:
    if white:
        other = Line("ignore", "255", "if such pixels do not count; but then nothing is positive", True)
        return (Line("ignore", "null", "255 is the foreground: no other value is there but 0"), other)
    if IGNORE in counts:
        return (Line("ignore", "255", f"255 stands beside 0 and 1, in {counts[IGNORE]} files: it does not count"),)
    return (Line("ignore", "null", "no 255 in the files"),)


def _ignored_class(counts: Mapping[int, int]) -> tuple[Line, ...]:
    other = Line("ignore", "[0, 255]", "if 0 means unlabelled", True)
    if IGNORE in counts:
        return (Line("ignore", "255", f"255 is in {counts[IGNORE]} files: it does not count"), other)
    return (Line("ignore", "255", "the default; no 255 in the files"), other)


def _balance(share: float) -> Line:
    even = min(0.99, max(0.5, round(1 - share, 2)))
    why = f"{share:.1%} of the pixels are edges: both sides would weigh the same at {even:.2f}"
    return Line("edge_positive_weight", "0.95", why)


def _mapping(values: Sequence[int]) -> str:
    return "{" + ", ".join(f"{value}: {number}" for number, value in enumerate(sorted(values))) + "}"


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")

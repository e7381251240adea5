"""From what label files hold, and what they are called, to the kind of their task. Values decide, names where values leave a choice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bmtas.data.proposal.found import Meaning, Refused
from bmtas.data.proposal.ids import guess_classes, guess_two_values
from bmtas.data.proposal.layout import Stream
from bmtas.data.proposal.looks import MANY_COLOURS
from bmtas.data.proposal.measures import guess_measure
from bmtas.data.proposal.turned import guess_normals
from bmtas.data.proposal.values import Pixels
from bmtas.data.proposal.words import meanings

_MOST_CLASSES = 255
_FEW_PER_FILE = 64  # classes in one picture; measures in 8 bits have more values than that
_PATCHES = 0.75  # share of equal neighbours in a picture of classes; slow gradients of measures have less
_MOST_VECTORS = 0.8  # share of vectors of length 1 that makes colours normals


def looks_like_ids(stream: Stream, looks: Sequence[Pixels]) -> bool:
    """Return whether files hold classes, so that the values of all of them are worth counting."""
    if meanings(stream.names)[:1] in (["depth"], ["regression"]):
        return False
    if any(look.values is None for look in looks):
        return False
    if any(value < 0 or value > np.iinfo(np.uint16).max for look in looks for value in look.values or ()):
        return False
    values = {value for look in looks for value in look.values or ()}
    if len(values) <= 3:
        return True
    busy = float(np.median([look.distinct for look in looks]))
    flat = float(np.median([look.flat for look in looks]))
    return busy <= _FEW_PER_FILE and flat >= _PATCHES and len(values) <= _MOST_CLASSES + 1


def guess_kind(
    stream: Stream, looks: Sequence[Pixels], counts: Mapping[int, int] | None, names: Mapping[str, tuple[str, ...]]
) -> Meaning | Refused:
    """Return what the files of `stream` are taken for.

    `looks` are those of a sample, `counts` in how many of all files each value is where `looks_like_ids`; `names` are lists
    of class names by the title of where they stand.
    """
    said = meanings(stream.names)
    strange = _not_readable(stream, looks)
    if strange is not None:
        return strange
    if looks[0].coloured:
        return _colours(stream, looks)
    if counts is None:
        return guess_measure(stream, looks, said)
    found = set(counts)
    if "instances" in said and len(found) > 2:
        return Refused(
            stream.title,
            f"ids of single objects, by its name ({_range(found)})",
            "bmtas has no task for instances; use the files of classes beside them",
        )
    if len(found - {255}) < 2 and found != {0, 255}:
        return Refused(
            stream.title,
            f"nothing but the value {min(found)} in {sum(counts.values())} files",
            "a task needs at least two; look whether the labels were written",
        )
    if found - {255} == {0, 1} or found == {0, 255}:
        return guess_two_values(looks, counts, len(stream.files), said, names)
    return guess_classes(stream.title, counts, len(stream.files), names)


def _not_readable(stream: Stream, looks: Sequence[Pixels]) -> Refused | None:
    """Return why files are none that bmtas reads as labels, if so."""
    kinds = Counter(look.what for look in looks)
    if len({look.mode for look in looks}) > 1 or len({look.dtype.kind for look in looks}) > 1:
        return Refused(
            stream.title,
            "files of several types: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "a task has one; move the others into a folder of their own",
        )
    look = next((look for look in looks if _odd_array(look)), looks[0])
    if look.mode == "F":
        return Refused(stream.title, "32-bit floating point images", "write them as .npy (numpy.save), which is read")
    if _odd_array(look):
        return Refused(
            stream.title,
            f"arrays of shape {look.shape}",
            "write arrays of shape (height, width), or (height, width, 3) for normals, by numpy.save",
        )
    if len({len(look.shape) for look in looks}) > 1:
        return Refused(
            stream.title,
            "arrays of one channel and arrays of three",
            "a task has one; move the others into a folder of their own",
        )
    if not look.single and not look.coloured:
        return Refused(
            stream.title, look.what, "write one channel of whole numbers, such as an 8-bit grey PNG with class ids"
        )
    lossy = any(path.suffix.lower() in (".jpg", ".jpeg", ".webp") for path in list(stream.files.values())[:1])
    if lossy and look.single:
        return Refused(
            stream.title,
            "grey JPEG or WebP files, which change values when they are written",
            "write the labels as PNG from where they come from; ids cannot be had back from these",
        )
    return None


def _odd_array(look: Pixels) -> bool:
    return look.mode == "npy" and not (len(look.shape) == 2 or (len(look.shape) == 3 and look.shape[2] == 3))


def _colours(stream: Stream, looks: Sequence[Pixels]) -> Meaning | Refused:
    known = [look.unit for look in looks if not math.isnan(look.unit)]
    unit = float(np.median(known)) if known else 0.0
    if unit >= _MOST_VECTORS:
        return guess_normals(looks, unit)
    if looks[0].mode == "npy":
        return Refused(
            stream.title,
            f"arrays of three channels, of which {unit:.0%} of the pixels are vectors of length 1",
            "normals have length 1; other measures have one channel, so write one array for each",
        )
    most = max(look.distinct for look in looks)
    if all(look.grey for look in looks):
        return Refused(
            stream.title,
            f"grey pictures written as colours, {most} greys",
            "write them with one channel: Image.open(path).convert('L').save(path)",
        )
    if most < MANY_COLOURS // 4:
        return Refused(
            stream.title,
            f"classes drawn as colours, up to {most} colours in a file",
            "a manifest reads ids, not colours: write for each colour its number into an 8-bit grey PNG, or a palette PNG",
        )
    return Refused(
        stream.title,
        f"colour pictures of up to {most} colours: photographs, or normals of which only {unit:.0%} have length 1",
        "nothing, if these are more images; normals are read as value / 127.5 - 1",
    )


def _range(values: set[int]) -> str:
    return f"{len(values)} distinct values {min(values)}..{max(values)}"

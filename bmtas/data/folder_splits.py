"""The splits of a folder of images: lists in files or in the manifest, or fractions of what is there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from bmtas.data.manifest import IMAGE_SUFFIXES, Manifest
from bmtas.errors import UsageError


def read_splits(manifest: Manifest, images: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the ids of each split. Raises UsageError on unknown, repeated or shared ids and empty splits."""
    splits = dict(manifest.spec.splits)
    if "train" not in splits:
        splits["train"] = 0.0  # the rest; read_manifest has checked that another split is a fraction
    listed = {
        split: _read_list(manifest, split, value, images)
        for split, value in splits.items()
        if not isinstance(value, float)
    }
    named = {i for ids in listed.values() for i in ids}
    free = [i for i in images if i not in named]
    divided = _divide(free, {split: value for split, value in splits.items() if isinstance(value, float)})
    result = {split: listed[split] if split in listed else divided[split] for split in splits}
    _check_splits(manifest, result)
    return {split: result[split] for split in sorted(result, key=lambda s: (s != "train", s != "val"))}


def _read_list(
    manifest: Manifest, split: str, value: str | tuple[str, ...], images: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the ids that a split file or an inline list names. Raises UsageError if an id has no image."""
    where, spec = manifest.where("splits", split), manifest.spec.images
    if isinstance(value, str):
        path = manifest.resolve(value, "splits", split, folder=False)
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where}: cannot read {path}: {error}; it must be a text file in UTF-8") from None
        value = tuple(line for line in lines if line and not line.startswith("#"))
        where = f"{where} ({path})"
    ids = tuple(to_id(text, images, spec.prefix or "", spec.suffixes) for text in value)
    missing = [i for i in ids if i not in images]
    if missing:
        ends = [*([spec.prefix] if spec.prefix else []), *spec.suffixes]
        raise UsageError(
            f"{where}: {len(missing)} of {len(ids)} ids have no image in {spec.folder!r}: "
            f"{some(missing)}; an id is the image's path below that folder without "
            f"{', '.join(ends)}, such as {next(iter(images))!r}: correct the ids or add the images"
        )
    return ids


def to_id(text: str, images: Container[str], prefix: str, suffixes: Sequence[str]) -> str:
    """Return the id that a line means: lists often name files, with the prefix and the suffix of their names."""
    folder, slash, name = text.rpartition("/")
    for bare in dict.fromkeys((name, name.removeprefix(prefix))):
        for suffix in ("", *suffixes, *IMAGE_SUFFIXES):
            key = f"{folder}{slash}{bare.removesuffix(suffix)}"
            if bare.endswith(suffix) and key in images:
                return key
    return text


def _divide(ids: Sequence[str], fractions: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Divide `ids` into `fractions`; 0 stands for the rest. Each part is sorted.

    The ids are ranked by a hash of their own, so neither their names' order (often time) nor chance decides.
    """
    ranked = sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())
    rest = 1.0 - sum(fractions.values())
    parts: dict[str, tuple[str, ...]] = {}
    start, total = 0, 0.0
    for split, fraction in fractions.items():
        total += fraction or rest
        stop = round(total * len(ranked))
        parts[split] = tuple(sorted(ranked[start:stop]))
        start = stop
    return parts


def _check_splits(manifest: Manifest, splits: Mapping[str, tuple[str, ...]]) -> None:
    """Check that no split is empty and no id stands twice. Raises UsageError."""
    owner: dict[str, str] = {}
    for split, ids in splits.items():
        where = manifest.where("splits", split)
        if not ids:
            raise UsageError(f"{where}: the split {split!r} is empty; name at least one image, or a larger fraction")
        twice = [i for i, count in Counter(ids).items() if count > 1]
        if twice:
            raise UsageError(f"{where}: {len(twice)} ids stand twice: {some(twice)}; remove the repetitions")
        for other in splits:
            leak = [i for i in ids if owner.get(i) == other]
            if leak:
                raise UsageError(
                    f"{where}: {len(leak)} ids are in {split!r} and in {other!r}: {some(leak)}; a result on "
                    "images that were trained on means nothing: keep each id in one split"
                )
        owner |= dict.fromkeys(ids, split)


def some(names: Iterable[str]) -> str:
    """Return up to three of `names` for a message, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

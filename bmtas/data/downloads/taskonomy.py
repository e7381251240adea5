"""Taskonomy: a folder per building with a folder per domain, or the index of files that AutoMTL uses."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.files import folders, listed, numbered
from bmtas.data.downloads.index import read_rows
from bmtas.data.downloads.places import first_size, places
from bmtas.data.downloads.taskonomy_reading import DOMAINS, sources
from bmtas.errors import UsageError

INDEX = "taskonomy.json"
_NAME = re.compile(r"(point_\d+_view_\d+)_domain_(\w+\.png)")
_COLUMNS = {
    "rgb": r"(?i)im(a)?g|rgb",
    "segment_semantic": r"(?i)seg",
    "normal": r"(?i)normal",
    "depth_zbuffer": r"(?i)depth",
    "keypoints2d": r"(?i)key",
    "edge_texture": r"(?i)edge",
}
_SPLITS = ("train", "val", "test")
_SHARES = (25, 5, 5)  # buildings of the split called tiny

_DECODED = (
    "semseg: uncertain pixels (value 0) do not count; AutoMTL trains them as background",
    "depth is in metres (1/512 m a step, from 64500 on invalid); AutoMTL takes ln(1 + px) / ln(65536) instead",
    "normals: red is x right, green is y down, blue points back to the camera in the files; here z points away from it",
    "keypoints and edges are without a unit, from -1 to 1: px / 65536 up to 0.005 and 0.08 are spread over it, as in AutoMTL",
)


def detect(root: Path) -> Layout | None:
    """Return the layout of Taskonomy in `root`, in the only folder below, or around the building `root`.

    None if it is not there. Raises UsageError where images or all labels are missing, or there is nothing to split.
    """
    parts = (root.name,) if _domains(root) else ()
    for found in places(root, parts):
        if (found / INDEX).is_file():
            return _indexed(found)
        buildings = {folder.name: domains for folder in folders(found) if (domains := _domains(folder))}
        if buildings:
            return _in_buildings(found, buildings)
    return None


def _domains(building: Path) -> dict[str, str]:
    """Return the domains of a building, each with how the names of its files end after the point and the view."""
    found = {}
    for domain in DOMAINS:
        folder = building / domain
        if folder.is_dir():
            # One file is looked at: there are thousands in each of the folders.
            match = next((m for path in folder.iterdir() if (m := _NAME.fullmatch(path.name))), None)
            if match is not None:
                found[domain] = match.group(2)
    return found


def _in_buildings(root: Path, buildings: Mapping[str, Mapping[str, str]]) -> Layout:
    """Return the layout of the download by buildings; `buildings` holds the endings by building and domain."""
    bare = [name for name, domains in buildings.items() if "rgb" not in domains]
    if bare:
        raise UsageError(
            f"{root / bare[0]} holds {', '.join(buildings[bare[0]])} but no rgb/ with images ({len(bare)} such buildings); "
            "unpack their images, or move these folders away"
        )
    present = [d for d in DOMAINS[1:] if any(d in domains for domains in buildings.values())]
    if not present:
        raise UsageError(
            f"{root} holds images of Taskonomy, but no labels beside rgb/; unpack at least one of {', '.join(DOMAINS[1:])}"
        )
    of_split, remark = _divided(root, sorted(buildings))

    views = {name: _views(root / name) for names in of_split.values() for name in names}
    lacking = {name: _lacking(root / name, views[name], buildings[name]) for name in views}

    def find(domain: str, sample_id: str) -> Path | None:
        building, _, view = sample_id.partition("/")
        ending = buildings[building].get(domain)
        if ending is None or view in lacking[building][domain]:
            return None
        return root / building / domain / f"{view}_domain_{ending}"

    def find_image(sample_id: str) -> Path:
        building, _, view = sample_id.partition("/")
        return root / building / "rgb" / f"{view}_domain_{buildings[building]['rgb']}"

    splits = {split: tuple(f"{n}/{view}" for n in names for view in views[n]) for split, names in of_split.items()}
    absent = [d for d in DOMAINS[1:] if d not in present]
    remarks = [remark, *_DECODED, "an image without a file of a domain has no label for that task"]
    if absent:
        remarks.append(f"no building holds {', '.join(absent)}, so these tasks are missing")
    return _layout(root, "by building and domain", splits, find_image, sources(find, present), remarks)


def _views(building: Path) -> list[str]:
    names = (match.group(1) for name in listed(building / "rgb") if (match := _NAME.fullmatch(name)))
    return sorted(names, key=numbered)


def _lacking(building: Path, views: Sequence[str], domains: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return for each domain the views without a file, as it is now: one that goes missing later is missed by its name.

    Each folder is listed once, and few names stay in memory.
    """
    lacking = {}
    for domain, ending in domains.items():
        there = set(listed(building / domain))
        lacking[domain] = frozenset(view for view in views if f"{view}_domain_{ending}" not in there)
    return lacking


def _indexed(root: Path) -> Layout:
    """Return the layout of the files that AutoMTL's index names."""
    index = read_rows(root / INDEX, _COLUMNS)
    remarks = [*_DECODED, *(["val is what the index calls test"] if index.val_is_test else [])]

    def find(domain: str, sample_id: str) -> Path:
        return root / index.rows[sample_id][domain]

    found = sources(find, DOMAINS[1:])
    return _layout(root, f"by {INDEX} (AutoMTL)", index.splits, partial(find, "rgb"), found, remarks)


def _layout(
    root: Path,
    variant: str,
    splits: Mapping[str, Sequence[str]],
    find_image: Callable[[str], Path],
    found: tuple[Source, ...],
    remarks: Sequence[str],
) -> Layout:
    return Layout(
        name="taskonomy",
        variant=variant,
        root=root,
        size=first_size((find_image(i) for ids in splits.values() for i in ids), root),
        splits=splits,
        find_image=find_image,
        read_image=read_picture,
        sources=found,
        remarks=tuple(remarks),
    )


def _divided(root: Path, buildings: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Return the buildings of each split, and a remark on who divided them: an official CSV file, or their names."""
    lists = {path: rows for path in _csv_files(root) if (rows := _read_split(path)) is not None}
    if lists:
        # The smallest list that knows most of the buildings: tiny is a part of medium, and that of full.
        path = min(lists, key=lambda p: (-len(lists[p].keys() & set(buildings)), len(lists[p]), p.name))
        rows = lists[path]
        used = {split: [b for b in buildings if rows.get(b) == split] for split in _SPLITS}
        count = sum(map(len, used.values()))
        remark = f"split by {path.name}: {count} of its {len(rows)} buildings are here"
        if count < len(buildings):
            remark += f"; {len(buildings) - count} buildings that it does not name are left out"
        return {split: names for split, names in used.items() if names or split != "test"}, remark
    if len(buildings) < 2:
        raise UsageError(
            f"{root} holds the building {buildings[0]!r} alone; images of a building look alike, so training and validation "
            "need different ones: download another building, or the CSV file of the official split with its buildings"
        )
    ranked = sorted(buildings, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = max(1, round(len(ranked) * _SHARES[1] / sum(_SHARES)))
    test = held_out if len(ranked) > 2 else 0
    parts = {"val": ranked[:held_out], "test": ranked[held_out : held_out + test], "train": ranked[held_out + test :]}
    remark = (
        "no CSV file of the official split is here, so buildings are ranked by the SHA-256 of their names: the first seventh "
        "is val, the next test, the rest train; for published numbers put train_val_test_tiny.csv beside the buildings"
    )
    return {split: sorted(parts[split]) for split in _SPLITS if parts[split]}, remark


def _csv_files(root: Path) -> list[Path]:
    return [
        path for folder in (root, root / "splits", root / "splits_taskonomy") for path in sorted(folder.glob("*.csv"))
    ]


def _read_split(path: Path) -> dict[str, str] | None:
    """Return the split of each building in a CSV file with the columns id, train, val, test; None for another file.

    A building that no column marks is in none. Raises UsageError where several do.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if not {"id", *_SPLITS} <= set(reader.fieldnames or ()):
                return None
            found: dict[str, str] = {}
            for row in reader:
                marked = [split for split in _SPLITS if (row[split] or "").strip().lower() in ("1", "1.0", "true")]
                if len(marked) > 1:
                    raise UsageError(
                        f"{path}:{reader.line_num}: the building {row['id']!r} is in {' and '.join(marked)}; a result on images "
                        "that were trained on means nothing: keep one 1 in the line"
                    )
                if marked:
                    found[(row["id"] or "").strip()] = marked[0]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}; it must be a CSV file in UTF-8") from None
    return found

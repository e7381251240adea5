"""NYUD-v2 in the five incompatible variants that circulate (`nyud_variants`, `nyud_listed`), told apart by the files that are there."""

from __future__ import annotations

from pathlib import Path

from bmtas.data.downloads.base import Layout
from bmtas.data.downloads.nyud_listed import ADASHARE_INDEX, NDDR_LISTS, adashare, nddr
from bmtas.data.downloads.nyud_variants import mtan, multi_task
from bmtas.data.downloads.places import check_unpacked, places
from bmtas.errors import UsageError

_FOUR_TASKS = "images, gt_sets and labels in segmentation, normals, depth and edge (ASTMT or MTL-PyTorch)"
_THREE_TASKS = f"{ADASHARE_INDEX} (AdaShare, AutoMTL)"
_THIRTEEN = "train and val with arrays in image, label, depth and normal (MTAN)"
_TWO_TASKS = "lists of images with their labels in list (NDDR-CNN, MTL-NAS)"
_BUILDERS = {_FOUR_TASKS: multi_task, _THREE_TASKS: adashare, _THIRTEEN: mtan, _TWO_TASKS: nddr}

_INSIDE = ("images", "gt_sets", "segmentation", "normals", "depth", "edge", "train", "val", "list")
_OFFICIAL = "nyu_depth_v2_labeled.mat"
_ARCHIVES = ("NYUD_MT.tgz", "NYUDv2.tar.gz")


def detect(root: Path) -> Layout | None:
    """Return the layout of the data set in `root`, None if it is not there.

    `root` may also be the folder above, if it holds no other folder, or one of those inside. Raises UsageError where the
    data set is recognised but is unpacked by half, mixes variants, or is the original, which has no splits and no edges.
    """
    for place in places(root, _INSIDE):
        found = _variants(place)
        if len(found) > 1:
            raise UsageError(
                f"{place} holds {len(found)} variants of NYUD-v2: {'; '.join(found)}; their labels have different codes: "
                "keep each in a folder of its own"
            )
        if found:
            return _BUILDERS[found[0]](place)
    if (root / _OFFICIAL).is_file():
        raise UsageError(
            f"{root / _OFFICIAL} is NYUD-v2 as its authors publish it, without the splits, normals and edges of the "
            "multi-task experiments; use one of its multi-task variants, such as NYUD_MT"
        )
    check_unpacked(root, _ARCHIVES)
    return None


def _variants(root: Path) -> list[str]:
    """Return which variants there are traces of in the folder `root`."""
    there = {name for name in ("images", "segmentation", "normals", "depth", "edge") if (root / name).is_dir()}
    traces = {
        _FOUR_TASKS: (root / "gt_sets").is_dir() or ("segmentation" in there and len(there) >= 4),
        _THREE_TASKS: (root / ADASHARE_INDEX).is_file(),
        _THIRTEEN: any(next((root / split / "normal").glob("*.npy"), None) for split in ("train", "val")),
        _TWO_TASKS: any((root / "list" / name).is_file() for name in NDDR_LISTS),
    }
    return [variant for variant, found in traces.items() if found]

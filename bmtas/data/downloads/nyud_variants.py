"""The variants of NYUD-v2 whose files are found by their folders: with four tasks (two of them), and with 13 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bmtas.data.downloads import nyud_common as common
from bmtas.data.downloads.arrays import array_size
from bmtas.data.downloads.base import Layout, Source, read_picture
from bmtas.data.downloads.nyud_common import file_of
from bmtas.data.downloads.places import check_folders, first_size, read_list, suffixes
from bmtas.errors import UsageError

_FORMS = {
    "ASTMT": {"segmentation": ".mat", "depth": ".mat", "normals": ".jpg", "edge": ".png"},
    "MTL-PyTorch, ATRC": {"segmentation": ".png", "depth": ".npy", "normals": ".npy", "edge": ".npy"},
}
"""The ending of the label files in each folder."""

_ENDINGS = frozenset(suffix for form in _FORMS.values() for suffix in form.values())


def multi_task(root: Path) -> Layout:
    """Return the layout of one of the two variants with four tasks, told apart by the endings of their label files.

    Raises UsageError where a folder or a list is missing, or the endings are those of neither.
    """
    check_folders(root, ("images", "gt_sets", *_FORMS["ASTMT"]), "NYUD-v2 with four tasks (NYUD_MT)")
    form = _form(root)
    splits = {split: read_list(root / "gt_sets" / f"{split}.txt") for split in ("train", "val")}
    find_image = partial(file_of, root / "images", ".jpg")
    find = {folder: partial(file_of, root / folder, suffix) for folder, suffix in _FORMS[form].items()}
    jpeg = ("normals are stored as JPEG, which turns them by up to some degrees",) if form == "ASTMT" else ()
    return Layout(
        name="nyud-v2",
        variant=f"{form}: 4 tasks, with segmentation/*{_FORMS[form]['segmentation']}",
        root=root,
        size=first_size((find_image(i) for i in splits["train"]), root),
        splits=splits,
        find_image=find_image,
        read_image=read_picture,
        sources=(
            Source(common.SEMSEG, find["segmentation"], partial(common.read_semseg, common.FROM_ONE)),
            Source(common.DEPTH, find["depth"], common.read_depth),
            Source(common.NORMALS, find["normals"], common.read_normals),
            Source(common.EDGE, find["edge"], common.read_edge),
        ),
        expected=common.EXPECTED,
        remarks=(
            common.SIZE,
            "semseg: class 0 of the files, background, is ignored, so that the 40 classes are those of the other variants",
            common.AXES,
            *jpeg,
        ),
    )


def mtan(root: Path) -> Layout:
    """Return the layout of the variant with 13 classes in arrays. Raises UsageError where a folder is missing or empty."""
    kinds = ("image", "label", "depth", "normal")
    splits = {}
    check_folders(root, [f"{split}/{k}" for split in ("train", "val") for k in kinds], "NYUD-v2 with 13 classes (MTAN)")
    for split in ("train", "val"):
        names = [path.stem for path in (root / split / "image").glob("*.npy") if not path.name.startswith(".")]
        if not names:
            raise UsageError(f"{root / split / 'image'} holds no .npy file; unpack or download the data set again")
        # The names are numbers without zeros in front: 2 comes before 10.
        splits[split] = [f"{split}/{name}" for name in sorted(names, key=lambda name: (len(name), name))]
    find = {kind: partial(_find_array, root, kind) for kind in kinds}
    return Layout(
        name="nyud-v2-13",
        variant="MTAN, LibMTL: 13 classes, with train/label/*.npy",
        root=root,
        size=array_size(find["image"](splits["train"][0])),
        splits=splits,
        find_image=find["image"],
        read_image=common.read_resampled_image,
        sources=(
            Source(common.SEMSEG_13, find["label"], partial(common.read_semseg, common.THIRTEEN)),
            Source(common.DEPTH, find["depth"], common.read_depth),
            Source(common.NORMALS, find["normal"], common.read_normals),
        ),
        expected=common.EXPECTED,
        remarks=(
            "13 classes at 288 x 384 are a benchmark of their own: results do not compare with those on 40 classes",
            "this variant has no edges; the paper works at 425 x 560 (height x width)",
            common.AXES,
        ),
    )


def _form(root: Path) -> str:
    """Return which of the forms the label files have. Raises UsageError if it is none."""
    endings = {folder: suffixes(root / folder) & _ENDINGS for folder in _FORMS["ASTMT"]}
    for form, wanted in _FORMS.items():
        if all(endings[folder] == {suffix} for folder, suffix in wanted.items()):
            return form
    known = "; or ".join(f"{_listed({k: {v} for k, v in wanted.items()})} ({form})" for form, wanted in _FORMS.items())
    raise UsageError(
        f"{root} holds {_listed(endings)}; NYUD-v2 with four tasks has {known}: unpack one variant, whole, into a folder of its own"
    )


def _listed(endings: dict[str, set[str]]) -> str:
    return ", ".join(
        " and ".join(f"{folder}/*{suffix}" for suffix in sorted(found)) if found else f"no labels in {folder}/"
        for folder, found in endings.items()
    )


def _find_array(root: Path, kind: str, sample_id: str) -> Path:
    split, name = sample_id.split("/")
    return root / split / kind / f"{name}.npy"

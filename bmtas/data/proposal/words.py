"""What names of folders and files usually mean. A name decides only where the values leave a choice."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGE_WORDS = frozenset(
    "image images img imgs rgb jpegimages leftimg8bit color colour colors photo photos input inputs frame frames".split()
)
"""Names of folders, or ends of file names, of the images themselves."""

_MEANINGS = {
    "depth": "depth depths zdepth depthmap depthmaps range zbuffer",
    "normals": "normal normals surfacenormal surfacenormals norm",
    "edge": "edge edges boundary boundaries contour contours border borders outline",
    "binary": "saliency salient sal mask masks foreground fg figure matte alpha silhouette",
    "segmentation": "seg semseg segmentation segmentations semantic semantics label labels labelids ids class classes "
    "annotation annotations segmentationclass parts gt trainids labeltrainids",
    "regression": "disparity disp disparities flow height albedo roughness shading curvature keypoints heat heatmap reshading",
    "instances": "instance instances instanceids panoptic",
}
_WORDS = {word: meaning for meaning, words in _MEANINGS.items() for word in words.split()}

_SPLITS = {
    "train": "train training trn",
    "val": "val valid validation dev",
    "test": "test testing tst",
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words.split()}


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case, the whole of it first: `gtFine_labelIds`, gt, Fine, label, Ids."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", spaced) if part]
    squeezed = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    return list(dict.fromkeys(word.lower() for word in ("".join(squeezed), *squeezed, *parts)))


def is_image(name: str) -> bool:
    """Return whether a folder or the end of a file name says that images are there."""
    return any(word in IMAGE_WORDS for word in words_of(name))


def meanings(names: Iterable[str]) -> list[str]:
    """Return what names mean, the last name's meaning first: kinds of tasks, or `instances`; nothing where none is known."""
    found = [_WORDS[word] for name in reversed(list(names)) for word in words_of(name) if word in _WORDS]
    return list(dict.fromkeys(found))


def split_of(name: str) -> str | None:
    """Return `train`, `val` or `test` if a folder or a list is called so, alone or at one end: `train_ids`, `split_val`."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    found = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    return found[0] if len(found) == 1 else None

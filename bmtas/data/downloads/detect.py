"""Which of the community's data sets a folder holds, and which variant of it."""

from __future__ import annotations

import importlib
from pathlib import Path

from bmtas.data.downloads.base import Download, Layout
from bmtas.errors import UsageError

_MODULES = ("pascal_context", "nyud", "cityscapes", "taskonomy", "omniglot")

EXPECTED = """\
PASCAL-Context (PASCAL_MT): JPEGImages/, ImageSets/Context/
NYUD-v2 with 4 tasks (NYUD_MT): images/, gt_sets/, with segmentation/*.mat or segmentation/*.png
NYUD-v2 with 3 tasks (AdaShare, AutoMTL): nyu_v2_3task.json
NYUD-v2 with 13 classes (MTAN): train/ and val/ with image/, label/, depth/ and normal/ of .npy
NYUD-v2 with 2 tasks (NDDR-CNN, MTL-NAS): list/training_seg.txt
Cityscapes as it is downloaded: leftImg8bit/, gtFine/, disparity/
Cityscapes as .npy (MTAN, AdaShare): train/ and val/ with image/, label/ and depth/, or cityscape.json
Taskonomy: <building>/rgb/, <building>/depth_zbuffer/, ..., or taskonomy.json
Omniglot: images_background/ and images_evaluation/ with a folder per alphabet, or <alphabet>.npz"""
"""How each is told from the files that are there, a line each."""


def detect_layout(root: Path) -> Layout | None:
    """Return the layout of the data set in the folder `root`, None if it is none of those that are known.

    Raises UsageError where a folder is recognised but is a variant that cannot be used, with what was found and asked.
    """
    found: list[Layout] = []
    for name in _MODULES:
        layout: Layout | None = importlib.import_module(f"bmtas.data.downloads.{name}").detect(root)
        if layout is not None:
            found.append(layout)
    if len(found) > 1:
        both = " and ".join(f"{layout.name} ({layout.variant})" for layout in found)
        raise UsageError(f"{root} holds files of {both}; give each data set a folder of its own")
    return found[0] if found else None


def open_download(root: Path) -> Download | None:
    """Open the data set in the folder `root`, None if it is none of those that are known. Raises UsageError."""
    layout = detect_layout(root)
    return None if layout is None else Download(layout)

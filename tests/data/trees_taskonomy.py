"""A small tree of Taskonomy in exactly its format: 12x16 pixels, the values chosen by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

H, W = 12, 16
BUILDINGS = ("Allensville", "Beechwood", "Coffeen", "Darden")
VIEWS = ("point_0_view_0", "point_2_view_1", "point_10_view_0")
ENDINGS = {"segment_semantic": "segmentsemantic"}  # the only domain whose files are called otherwise than its folder


def save(path: Path, array: npt.NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def labels() -> dict[str, npt.NDArray[Any]]:
    """The same label for each image: the first pixels hold one value of each kind."""
    semantic = np.ones((H, W), dtype=np.uint8)
    semantic[0, :4] = (0, 1, 2, 17)
    depth = np.full((H, W), 1024, dtype=np.uint16)
    depth[0, :5] = (512, 64499, 64500, 65535, 0)
    normal = np.full((H, W, 3), (127, 127, 254), dtype=np.uint8)  # towards the camera
    normal[1, :5] = ((254, 127, 127), (127, 254, 127), (127, 0, 127), (127, 127, 127), (128, 128, 128))
    keypoints = np.zeros((H, W), dtype=np.uint16)
    keypoints[0, :3] = (0, 164, 60000)
    edges = np.zeros((H, W), dtype=np.uint16)
    edges[0, :3] = (0, 2048, 60000)
    return {
        "segment_semantic": semantic,
        "normal": normal,
        "depth_zbuffer": depth,
        "keypoints2d": keypoints,
        "edge_texture": edges,
    }


def write_taskonomy(root: Path, buildings: tuple[str, ...] = BUILDINGS) -> Path:
    for number, building in enumerate(buildings):
        for view_number, view in enumerate(VIEWS):
            image = np.full((H, W, 3), 40 * number + view_number, dtype=np.uint8)
            for domain, array in {"rgb": image, **labels()}.items():
                save(root / building / domain / f"{view}_domain_{ENDINGS.get(domain, domain)}.png", array)
    return root

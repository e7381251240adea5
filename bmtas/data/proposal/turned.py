"""Normals: which axis each channel holds, as far as pictures of rooms and streets tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmtas.data.proposal.found import Line, Meaning
from bmtas.data.proposal.values import Pixels
from bmtas.tasks import TaskKind

_ONE_SIGN = 0.8  # mean sign of the channel along the viewing direction: what is seen faces the camera
_CLEAR = 0.1  # correlation with the row or the column
_MOST = 0.5  # share of files


def guess_normals(looks: Sequence[Pixels], unit: float) -> Meaning:
    """Return the axes of vectors: bmtas has x right, y down, z forward, so that what faces the camera has z < 0.

    The channel of one sign is along the viewing direction. Of the other two, y goes with the rows: floors lie low in a picture
    and point up. x is taken to point right, as all common conventions have it.
    """
    encoding = "npy" if looks[0].mode == "npy" else "rgb"
    evidence = f"{unit:.0%} of the vectors have length 1" + (" as value / 127.5 - 1" if encoding == "rgb" else "")
    first = Line("encoding", encoding)
    turnings = [look.turning for look in looks if look.turning is not None]
    if not turnings:
        doubt = "hardly a pixel is valid, so the axes cannot be told: 'axes' or 'flip_y' where they are not x right, y down, z forward"
        return Meaning(TaskKind.NORMALS, (first, *_others("[x, y, z]")), evidence, (doubt,))
    sign = np.mean([turning.sign for turning in turnings], axis=0)
    along_x = np.mean([turning.along_x for turning in turnings], axis=0)
    along_y = np.mean([turning.along_y for turning in turnings], axis=0)
    facing = int(np.argmax(np.abs(sign)))
    if abs(sign[facing]) < _ONE_SIGN or len(turnings) < _MOST * len(looks):
        doubt = "no channel has one sign, so the axes cannot be told: 'axes' or 'flip_y' where they are not x right, y down, z forward"
        return Meaning(TaskKind.NORMALS, (first, *_others("[x, y, z]")), evidence, (doubt,))
    a, b = [channel for channel in range(3) if channel != facing]
    x, y = (a, b) if abs(along_x[a]) + abs(along_y[b]) >= abs(along_x[b]) + abs(along_y[a]) else (b, a)
    axes = ["", "", ""]
    axes[facing] = "z" if sign[facing] < 0 else "-z"
    axes[x] = "x"
    axes[y] = "y" if along_y[y] <= 0 else "-y"
    names = "RGB" if encoding == "rgb" else "012"
    why = (
        f"{names[facing]} has one sign ({sign[facing]:+.2f}): towards the camera; {names[y]} goes with the rows ({along_y[y]:+.2f}): "
        f"floors point {'up where it is positive' if axes[y] == '-y' else 'up where it is negative'}; {names[x]} is left for x"
    )
    doubts = []
    if abs(along_y[y]) < _CLEAR:
        doubts.append(f"channel {names[y]} hardly goes with the rows ({along_y[y]:+.2f}), so that y may be upside down")
    doubts.append("the axes are a guess from statistics: look at the floor in the picture, and at a wall on the left")
    shown = f"[{', '.join(axes)}]"
    return Meaning(TaskKind.NORMALS, (first, Line("axes", shown, why), *_others(shown)), evidence, tuple(doubts))


def _others(taken: str) -> tuple[Line, ...]:
    known = {
        "[x, y, z]": "x right, y down, z forward, the default",
        "[x, -y, -z]": "x right, y up, z towards the camera",
        "[x, z, -y]": "the files of NYUD-v2 that come with AdaShare",
    }
    return tuple(Line("axes", axes, why, True) for axes, why in known.items() if axes != taken)

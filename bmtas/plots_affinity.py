"""The picture of how near tasks are to each other, as in the paper's figure 3. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.extras import require
from bmtas.files import atomic_path

_DOTS_PER_INCH = 120


def draw_affinities(matrices: Mapping[str, npt.NDArray[np.float64]], tasks: Sequence[str], path: Path) -> None:
    """Draw one or more matrices (T, T) side by side, by title, with the value in each cell; all have one scale of colours.

    Raises EnvironmentProblem where matplotlib is not installed.
    """
    count = len(tasks)
    side = max(3.0, 0.7 * count + 1.2)
    figure = require("matplotlib.figure", "train").Figure(figsize=(side * len(matrices), side), layout="constrained")
    lowest = min(float(matrix.min()) for matrix in matrices.values())
    for axis, (title, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        axis.imshow(matrix, vmin=lowest, vmax=1.0, cmap="viridis")
        axis.set_xticks(range(count), tasks, rotation=45, ha="right")
        axis.set_yticks(range(count), tasks)
        axis.set_title(title, fontsize=9)
        middle = (lowest + 1.0) / 2
        for row in range(count):
            for column in range(count):
                colour = "black" if matrix[row, column] > middle else "white"
                axis.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")

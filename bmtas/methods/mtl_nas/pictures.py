"""What MTL-NAS has learned as pictures: how sure it is of its edges, and the graph of those it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.extras import require
from bmtas.files import atomic_path
from bmtas.methods.mtl_nas.space import Edge, FusionSpace

_DOTS_PER_INCH = 120
BINS = 25
"""Of the histogram, as in figure 2 of the paper."""


def draw_probabilities(probabilities: Sequence[float], path: Path) -> None:
    """Draw the histogram of the edges' probabilities, as figure 2 of the paper. Raises EnvironmentProblem without matplotlib."""
    figure = require("matplotlib.figure", "train").Figure(figsize=(5.0, 3.2), layout="constrained")
    axis = figure.subplots()
    counts, borders = np.histogram(probabilities, bins=BINS, range=(0.0, 1.0))
    axis.bar(borders[:-1], counts, width=1 / BINS, align="edge", edgecolor="white", linewidth=0.5)
    axis.axvline(0.5, color="grey", linestyle=":", linewidth=1)
    axis.set_xlim(0.0, 1.0)
    axis.set_xlabel("probability of an edge")
    axis.set_ylabel(f"edges (of {len(probabilities)})")
    _save(figure, path)


def draw_fusions(space: FusionSpace, kept: Sequence[bool], path: Path) -> None:
    """Draw one row per task with the nodes as columns, and the kept edges from source to target, as figure S2 of the paper.

    Raises EnvironmentProblem without matplotlib.
    """
    rows = len(space.tasks)
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(2.5 + 0.55 * len(space.nodes), 0.8 + 1.1 * rows), layout="constrained"
    )
    axis = figure.subplots()
    for row, task in enumerate(space.tasks):
        axis.plot(range(len(space.nodes)), [row] * len(space.nodes), color="black", linewidth=1, zorder=1)
        axis.scatter(range(len(space.nodes)), [row] * len(space.nodes), s=60, color=f"C{row}", zorder=3, label=task)
    for edge in (e for e, keep in zip(space.edges, kept, strict=True) if keep):
        _arrow(axis, space, edge)
    axis.set_yticks(range(rows), space.tasks)
    axis.set_xticks(range(len(space.nodes)), [n.removeprefix("layers.") for n in space.nodes], fontsize=8)
    axis.set_ylim(rows - 0.6, -0.4)
    axis.set_title(
        f"{sum(kept)} of {len(kept)} edges; an arrow has the colour of the task whose features it takes", fontsize=9
    )
    axis.set_frame_on(False)
    _save(figure, path)


def _arrow(axis: Any, space: FusionSpace, edge: Edge) -> None:
    source = space.tasks.index(edge.source_task)
    begin = space.nodes.index(edge.source_node), source
    end = space.nodes.index(edge.node), space.tasks.index(edge.task)
    style = {"arrowstyle": "-|>", "color": f"C{source}", "alpha": 0.7, "shrinkA": 4, "shrinkB": 5}
    # Bent, so that the two ways between the same two places are seen apart.
    axis.annotate("", xy=end, xytext=begin, arrowprops={**style, "connectionstyle": "arc3,rad=0.12"}, zorder=2)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")

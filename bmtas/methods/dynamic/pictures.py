"""What dynamic topologies look like: for each task the states in a row and the arcs that it keeps between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmtas.extras import require
from bmtas.files import atomic_path
from bmtas.methods.dynamic.space import TopologySpace

_DOTS_PER_INCH = 120
_WIDEST = 3.0  # points, of an arc whose scalar is 1


def draw_topologies(space: TopologySpace, topologies: Mapping[str, Any], path: Path) -> None:
    """Draw a row of states per task, image first and read-out last, arcs as wide as their scalars; the tap of a dense task is a square.

    `topologies` is what `finder.details_of` gives by that name. Raises EnvironmentProblem without matplotlib.
    """
    count, rows = space.topology.read_out + 1, len(space.tasks)
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(1.5 + 0.5 * count, 0.6 + 1.6 * rows), layout="constrained"
    )
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for row, (task, axis) in enumerate(zip(space.tasks, axes, strict=True)):
        told = topologies[task]
        alive = {state for i, j, _ in told["arcs"] for state in (i, j)}
        for source, target, scalar in told["arcs"]:
            _draw_arc(axis, source, target, scalar, f"C{row}")
        for state in range(count):
            marker = "s" if state == space.topologies[row].tap else "o"
            axis.scatter(state, 0, s=45, marker=marker, color=f"C{row}" if state in alive else "lightgrey", zorder=3)
        note = ", agreed with others" if told["agreed"] else ""
        axis.set_title(f"{task}: {len(told['arcs'])} arcs, {told['flow']:.0%} of the flow{note}", fontsize=9)
        axis.set_yticks([])
        axis.set_ylim(-0.3, 1.2)
        axis.tick_params(bottom=axis is axes[-1])
        axis.set_frame_on(False)
    names = ["image", *(str(i) for i in range(1, count - 1)), "read-out"]
    axes[-1].set_xticks(range(count), names, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")


def _draw_arc(axis: Any, source: int, target: int, scalar: float, colour: str) -> None:
    arc = require("matplotlib.patches", "train").Arc
    span = target - source
    axis.add_patch(
        arc(
            ((source + target) / 2, 0.0),
            span,
            min(2.0, 0.3 + 0.2 * span),  # of both halves; the upper one is drawn
            theta1=0,
            theta2=180,
            linewidth=0.3 + _WIDEST * scalar,
            color=colour,
            alpha=0.7,
        )
    )

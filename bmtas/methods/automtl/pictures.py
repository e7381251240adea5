"""What AutoMTL has learned as pictures: each task's policy, as figure 5 of the paper, and how alike the policies are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bmtas.extras import require
from bmtas.files import atomic_path
from bmtas.methods.automtl.prices import Choices, Floats

_DOTS_PER_INCH = 120
_NAMES = ("shared", "own", "skipped")


def draw_policies(
    tasks: Sequence[str], convolutions: Sequence[str], probabilities: Floats, choices: Choices, path: Path
) -> None:
    """Draw for each task the probabilities (3, L) as shades, and what was taken as a dot; `probabilities` is (T, L, 3), `choices` (T, L).

    Raises EnvironmentProblem where matplotlib is not installed.
    """
    count = len(convolutions)
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(max(5.0, 1.6 + 0.16 * count), 0.9 + 0.95 * len(tasks)), layout="constrained"
    )
    axes = figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for axis, task, of_task, taken in zip(axes, tasks, probabilities, choices, strict=True):
        image = axis.imshow(of_task.T, vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto", interpolation="nearest")
        axis.scatter(range(count), taken, s=8, color="black")
        axis.set_yticks(range(len(_NAMES)), _NAMES, fontsize=8)
        axis.set_title(task, fontsize=9)
    step = max(1, count // 30)
    axes[-1].set_xticks(range(0, count, step), convolutions[::step], rotation=90, fontsize=7)
    figure.colorbar(image, ax=list(axes), label="probability")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")

"""The picture of how a search made up its mind: who shares what, layer by layer, over the cycles. Needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.extras import require
from bmtas.files import atomic_path
from costs.splits import Floats

_DOTS_PER_INCH = 120
_COLUMNS = 5


def sharing_over_time(history: Sequence[dict[str, Any]]) -> tuple[list[int], Floats]:
    """Return the steps at which cycles ended, and how probable it is that two tasks share a layer then, (n, L, T, T).

    Two tasks share a layer if they draw the same in all layers up to it: the product over those layers of
    sum_j p[t, j] p[u, j]. `history` is what a search writes; records without probabilities are passed over.
    """
    records = [record for record in history if "probabilities" in record]
    if not records:
        return [], np.zeros((0, 0, 0, 0))
    probs = np.array([record["probabilities"] for record in records], dtype=np.float64)  # (n, L, T, C)
    agree = np.einsum("nltj,nluj->nltu", probs, probs)
    return [record["step"] for record in records], np.cumprod(agree, axis=1)


def draw_sharing(history: Sequence[dict[str, Any]], tasks: Sequence[str], path: Path) -> bool:
    """Draw, for each pair of tasks, the probability of sharing over layers and cycles; return whether there was anything.

    Raises EnvironmentProblem where matplotlib is not installed.
    """
    steps, sharing = sharing_over_time(history)
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    if not steps or not pairs:
        return False
    rows = -(-len(pairs) // _COLUMNS)
    columns = -(-len(pairs) // rows)  # rows as equally full as can be
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(2.6 * columns + 1.2, 2.4 * rows + 0.6), layout="constrained"
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    image = None
    for axis, (t, u) in zip(axes, pairs, strict=False):
        image = axis.imshow(
            sharing[:, :, t, u].T,
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
            origin="lower",
            cmap="viridis",
        )
        axis.set_title(f"{tasks[t]} + {tasks[u]}", fontsize="small")
    for axis in axes[len(pairs) :]:
        axis.set_visible(False)
    for axis in axes[max(len(pairs) - columns, 0) : len(pairs)]:
        axis.tick_params(labelbottom=True)  # nothing stands below it
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    shown = sorted({0, len(steps) // 2, len(steps) - 1})
    for axis in axes:
        axis.set_xticks(shown, [str(steps[i]) for i in shown])
    figure.supxlabel("step of the search", fontsize="small")
    figure.supylabel("layer", fontsize="small")
    figure.colorbar(image, ax=axes.tolist(), label="probability that both share the layer")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH)
    return True

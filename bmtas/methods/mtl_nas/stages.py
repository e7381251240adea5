"""The schedule of MTL-NAS: one phase after the warm-up, in which the samples of the gates become harder."""

from __future__ import annotations

LEAST_TEMPERATURE = 1e-3
"""The schedule of the source reaches 0 in its last step, by which nothing can be divided."""


def gate_temperature(progress: float) -> float:
    """Return (1 - progress)^2, at least `LEAST_TEMPERATURE`; `progress` in [0, 1] is the share of the steps that are done.

    Source: the authors' code (initial temperature 1, power 2).
    """
    return max((1.0 - progress) ** 2, LEAST_TEMPERATURE)

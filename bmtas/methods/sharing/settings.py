"""What can be set of the networks that share by a fixed rule. Needs no torch."""

from __future__ import annotations

from enum import Enum
from typing import Any

from bmtas.settings import Settings


class Init(str, Enum):
    """What the tasks' encoders begin from."""

    SEPARATE = "separate"  # networks of single tasks, trained first (Bruggemann et al., BMVC 2020, appendix B)
    BACKBONE = "backbone"  # the backbone's pretrained weights, or random ones


class Own(Settings):
    """Settings of these methods alone.

    Without `init`, networks with an encoder per task begin from separate networks, and MTAN, which has one encoder, from the backbone.
    """

    init: Init | None = None


OWN: dict[str, dict[str, Any]] = {"quick": {}, "standard": {}, "paper": {}}
"""What a preset changes of `Own`."""

SEARCH: dict[str, dict[str, Any]] = {"quick": {}, "standard": {}, "paper": {}}
"""Nothing is searched."""

TRAIN: dict[str, dict[str, Any]] = {"quick": {}, "standard": {}, "paper": {}}
"""Trained as every other network: the paper used one setup for all, but for a grid search over learning rates whose results it
does not state."""

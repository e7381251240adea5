"""What can be set of MTL-NAS, with the defaults of its paper and code. Needs no torch."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import Field

from bmtas.settings import Settings


class Gates(str, Enum):
    """How the probability of an edge becomes its gate."""

    DETERMINISTIC = (
        "deterministic"  # the probability itself (Eq. 4); in the end the edge is kept if it is above one half (Eq. 9)
    )
    STOCHASTIC = "stochastic"  # a softened sample (Eq. 6); in the end a sample


class Init(str, Enum):
    """What the tasks' backbones begin from."""

    SEPARATE = "separate"  # networks of single tasks, trained first (section 3.1)
    BACKBONE = "backbone"  # the backbone's pretrained weights, or random ones


class Own(Settings):
    """Settings of this method alone. Sections and equations are those of Gao et al., CVPR 2020."""

    init: Init = Init.SEPARATE
    own_weight: float = Field(
        default=1.0, ge=0, le=1
    )  # w_TI of table 5; what is left is dealt to the other tasks' features
    arch_relaxation: Gates = Gates.STOCHASTIC  # in updates of the architecture parameters
    weight_relaxation: Gates = Gates.STOCHASTIC  # in updates of the weights
    discretisation: Gates = Gates.DETERMINISTIC
    entropy_weight: float = Field(default=10.0, ge=0)  # gamma of Eq. 13, per nat
    fusion_rate: float = Field(
        default=100.0, gt=0
    )  # multiplies the learning rate of fusions; 1 to 1000 do alike (table A2)
    weight_decay: float = Field(default=2.5e-4, ge=0)
    arch_weight_decay: float = Field(default=1e-3, ge=0)


OWN: dict[str, dict[str, Any]] = {
    # AdamW normalises gradients: a hundred times its rate would spoil what single tasks have learned.
    "quick": {"fusion_rate": 1.0},
    "standard": {},
    "paper": {},
}
"""What a preset changes of `Own`."""

_OURS = {"arch_share": 0.5, "weight_steps_per_cycle": 1, "arch_steps_per_cycle": 1}

SEARCH: dict[str, dict[str, Any]] = {
    "quick": {**_OURS, "warmup_steps": 40, "weight_steps": 120, "learning_rate": 3e-3, "arch_learning_rate": 0.1},
    "standard": {
        **_OURS,
        "batch_size": 8,
        "warmup_steps": 250,
        "weight_steps": 5000,
        "learning_rate": 1e-3,
        "arch_learning_rate": 4e-3,
    },
    # Section 5.1, VGG-16 on NYU v2.
    "paper": {
        **_OURS,
        "batch_size": 10,
        "warmup_steps": 0,
        "weight_steps": 20000,
        "learning_rate": 1e-3,
        "arch_learning_rate": 3e-3,
        "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
    },
}
"""What a preset changes of the settings of searches."""

TRAIN: dict[str, dict[str, Any]] = {"quick": {}, "standard": {}, "paper": {}}
"""What a preset changes of the settings of training: that of the networks of single tasks which the search begins with."""

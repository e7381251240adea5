"""What can be set of AutoMTL, with the defaults of its paper and code. Needs no torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bmtas.settings import Settings


class Own(Settings):
    """Settings of this method alone. The paper is Zhang et al., NeurIPS 2022, with its supplement; defaults are those for NYU v2."""

    policies: int = Field(default=8, ge=1)  # so many are sampled, and the best one within the budget is taken
    shared: int = Field(default=0, ge=0)  # the first so many convolutions are shared by all tasks
    regularisation_weight: float = Field(default=1e-3, ge=0)  # lambda_reg of the supplement's table 5
    # The published code has 6 where it is used, and an argument of 1 that does not get there.
    regularisation_scale: float = Field(default=6.0, ge=0)
    pretrain_learning_rate: float = Field(default=1e-3, gt=0)  # Adam's, in the warm-up
    arch_weight_decay: float = Field(default=5e-4, ge=0)
    # The code multiplies the temperature by 0.965 whenever 100 policy steps have passed, which is 40 times in 20 000 steps, a
    # fifth of them policy steps. Searches of another length do it as often.
    temperature_decay: float = Field(default=0.965, gt=0, le=1)
    temperature_decays: int = Field(default=40, ge=0)
    validation_batches: int = Field(
        default=4, ge=1
    )  # of the architecture share, on which sampled policies are compared


OWN: dict[str, dict[str, Any]] = {
    # 40 decays lead to a temperature of 1.2, at which so few steps would hardly tell the branches apart.
    "quick": {"temperature_decays": 80, "pretrain_learning_rate": 2e-3, "validation_batches": 2},
    "standard": {},
    "paper": {},
}
"""What a preset changes of `Own`."""

SEARCH: dict[str, dict[str, Any]] = {
    "quick": {"warmup_steps": 16, "weight_steps": 16, "weight_steps_per_cycle": 4, "arch_steps_per_cycle": 2},
    # The paper's loop at an eighth of its length.
    "standard": {
        "batch_size": 8,
        "warmup_steps": 1250,
        "weight_steps": 2000,
        "weight_steps_per_cycle": 100,
        "arch_steps_per_cycle": 25,
        "learning_rate": 1e-3,
    },
    # Supplement, table 5, NYU v2: 10 000 steps of pre-training and 20 000 of policy training, alternating as on Cityscapes.
    "paper": {
        "batch_size": 16,
        "warmup_steps": 10000,
        "weight_steps": 16000,
        "weight_steps_per_cycle": 400,
        "arch_steps_per_cycle": 100,
        "learning_rate": 1e-3,
        "scales": (1.0,),
    },
}
"""What a preset changes of the settings of searches."""

TRAIN: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {"optimiser": "adamw", "learning_rate": 1e-3, "divide_rate_by_sharing": False},
    # Supplement, table 5: 30 000 steps of Adam. The schedule is the poly policy of all training here, not halving every 4000.
    "paper": {"steps": 30000, "optimiser": "adamw", "learning_rate": 1e-3, "divide_rate_by_sharing": False},
}
"""What a preset changes of the settings of training."""

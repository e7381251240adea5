"""What can be set of the dynamic topologies, with the defaults of their paper. Needs no torch."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import Field

from bmtas.settings import Settings


class SearchWeights(str, Enum):
    """Which weights are updated after the warm-up."""

    HEADS = (
        "heads"  # what each task has for itself, the last layer of the encoder among it (paper, caption of figure 2)
    )
    ALL = "all"  # the shared operations too


class TuneFrom(str, Enum):
    """What fine-tuning begins with; the scalars of sums are those of the search in any case."""

    WARM_UP = "warm-up"  # the weights at its end (paper: "we rewind the model parameters")
    SEARCH = "search"  # the weights at its end
    FRESH = "fresh"  # random weights, and the backbone's pretrained stem


class Own(Settings):
    """Settings of this method alone. The paper is Choi & Im, CVPR 2023; its tables are those of the supplement."""

    flow: int = Field(default=5, ge=1)  # M: a link skips at most M - 1 states (5, 7 and 9 in table 5)
    squeeze_weight: float = Field(default=0.05, ge=0)  # lambda_sq of table 3: .05, .01 or .005, by data set
    squeeze_links: float | None = Field(default=None, ge=0, description="as many as a chain of all states has")  # kappa
    keep_flow: float = Field(default=0.9, ge=0, le=1)  # links are deleted while so much of a task's flow is left
    search_weights: SearchWeights = SearchWeights.HEADS
    tune_from: TuneFrom = TuneFrom.WARM_UP


OWN: dict[str, dict[str, Any]] = {
    # In so few steps the warm-up teaches the shared operations hardly anything, and rewinding has not paid (`docs/dynamic.md`).
    "quick": {"flow": 3, "search_weights": SearchWeights.ALL, "tune_from": TuneFrom.SEARCH},
    "standard": {},
    "paper": {},
}
"""What a preset changes of `Own`."""

_ALTERNATING = {"weight_steps_per_cycle": 1, "arch_steps_per_cycle": 1, "optimiser": "adamw"}

SEARCH: dict[str, dict[str, Any]] = {
    "quick": {**_ALTERNATING, "warmup_steps": 60, "weight_steps": 40, "learning_rate": 3e-3, "arch_learning_rate": 0.2},
    # The paper's loop at a third of its length.
    "standard": {
        **_ALTERNATING,
        "warmup_steps": 1500,
        "weight_steps": 5000,
        "learning_rate": 3e-4,
        "arch_learning_rate": 0.03,
    },
    # Supplement, section 1, NYU v2 and Cityscapes: 5000 and 15000 iterations, rates 1e-4 and 0.01.
    "paper": {
        **_ALTERNATING,
        "warmup_steps": 5000,
        "weight_steps": 15000,
        "learning_rate": 1e-4,
        "arch_learning_rate": 0.01,
    },
}
"""What a preset changes of the settings of searches."""

_FINE_TUNING = {"optimiser": "adamw", "divide_rate_by_sharing": False}

TRAIN: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {**_FINE_TUNING, "learning_rate": 3e-4},
    "paper": {**_FINE_TUNING, "steps": 20000, "learning_rate": 1e-4},
}
"""What a preset changes of the settings of training: the paper's fine-tuning."""

"""Optimisers and schedules of search and training (paper, appendix A)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bmtas.config import Optimiser

_MOMENTUM, _WEIGHT_DECAY, _POLY_POWER = 0.9, 1e-4, 0.9  # paper, appendix A; the power is that of DeepLab's poly policy


def weight_optimiser(
    kind: Optimiser, groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser of the weights. Each group keeps its own first rate under `base_lr`."""
    optimiser: torch.optim.Optimizer
    if kind is Optimiser.SGD:
        optimiser = torch.optim.SGD(groups, lr=learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    else:
        optimiser = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    for group in optimiser.param_groups:
        group["base_lr"] = group["lr"]
    return optimiser


def set_poly_rate(optimiser: torch.optim.Optimizer, progress: float) -> None:
    """Scale every group's rate by (1 - progress)^0.9, the poly policy, with `progress` in [0, 1)."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * (1.0 - progress) ** _POLY_POWER

"""Optimisers and schedules of search and training (paper, appendix A)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bmtas.config import Optimiser

_MOMENTUM, _WEIGHT_DECAY, _POLY_POWER = 0.9, 1e-4, 0.9  # paper, appendix A; the power is that of DeepLab's poly policy
# Where PyTorch can update a parameter in one pass over its memory, which is its fastest way
# (`benchmarks/search_step.py --parts`). The numbers are the same but for rounding.
_FUSED = ("cpu", "cuda")


def weight_optimiser(
    kind: Optimiser, groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser of the weights. Each group keeps its own first rate under `base_lr`."""
    optimiser: torch.optim.Optimizer
    if kind is Optimiser.SGD:
        optimiser = torch.optim.SGD(groups, lr=learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
        _begin_momentum(optimiser)
    else:
        optimiser = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    for group in optimiser.param_groups:
        group["base_lr"] = group["lr"]
        group["fused"] = all(p.device.type in _FUSED and p.is_floating_point() for p in group["params"])
    return optimiser


def _begin_momentum(optimiser: torch.optim.Optimizer) -> None:
    """Let every momentum begin at zero, which is what it would be before the parameter's first gradient.

    PyTorch's fused SGD fails where some parameters have had a gradient before and others have one for the first time, as
    in the warm-up, where each task trains its own candidates.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def set_poly_rate(optimiser: torch.optim.Optimizer, progress: float) -> None:
    """Scale every group's rate by (1 - progress)^0.9, the poly policy, with `progress` in [0, 1)."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * (1.0 - progress) ** _POLY_POWER

"""The stages of AutoMTL: pre-training, in which every branch counts alike, then policies and weights in turn, at a falling temperature.

The third stage of the paper, training the derived network from scratch, is `bmtas train`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bmtas.methods.automtl.prices import CHOICES, SHARED
from bmtas.relaxation import gumbel_softmax


def policy_temperature(start: float, decay: float, decays: int, progress: float) -> float:
    """Return start * decay^(decays * progress), `progress` in [0, 1] being the share of the steps that are done.

    Source: the published code multiplies by 0.965 after every 100 policy steps; here a search of any length has the same course, smoothly.
    """
    return start * decay ** (decays * min(max(progress, 0.0), 1.0))


def even_branches(tasks: int, convs: int) -> Tensor:
    """Return the branches' weights in pre-training, (T, L, 3): the mean of the three (published code)."""
    return torch.full((tasks, convs, CHOICES), 1.0 / CHOICES)


def sampled_branches(logits: Tensor, forced: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return a softened sample of each row of (T, L, 3), differentiable; convolutions that are `forced` (L,) are shared."""
    return held(gumbel_softmax(logits, temperature, generator), forced)


def held(weights: Tensor, forced: Tensor) -> Tensor:
    """Return weights or probabilities (T, L, 3) with those of convolutions that are shared in any case (L,) in their place."""
    certain = torch.zeros(CHOICES, dtype=weights.dtype)
    certain[SHARED] = 1.0
    return torch.where(forced[:, None], certain, weights)

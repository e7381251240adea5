"""The continuous relaxation of discrete choices (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Return a softened one-hot sample of each row of `logits`, (..., C) to (..., C): paper, Eq. 2.

    Rows sum to 1 and are differentiable in `logits`. At a high `temperature` they are nearly uniform, towards 0 they
    approach samples of the categorical distribution softmax(logits). The noise comes from `generator`.
    """
    # Gumbel(0, 1) noise is -log of exponential noise.
    exponential = torch.empty_like(logits, memory_format=torch.legacy_contiguous_format).exponential_(
        generator=generator
    )
    gumbel = -exponential.clamp(min=torch.finfo(logits.dtype).tiny).log()
    return torch.softmax((logits + gumbel) / temperature, dim=-1)


def annealed(start: float, end: float, progress: float) -> float:
    """Return the value between `start` and `end` at `progress` in [0, 1], linearly (paper, appendix A)."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)

"""What is trained in which phase: candidate t on task t in the warm-up, then softened samples of the candidates (appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor

from bmtas.methods.relaxed import Moment
from bmtas.networks.supergraph import own_candidates
from bmtas.relaxation import gumbel_softmax
from bmtas.schedule import WARMUP


def mixes(logits: Tensor, moment: Moment) -> list[Tensor]:
    """Return for each task the weights (L, C) of the candidates on its path in this step, for the logits (L, T, C)."""
    layers, tasks, candidates = logits.shape
    if moment.step.phase == WARMUP:
        return [own_candidates(layers, candidates, t) for t in range(tasks)]
    return [gumbel_softmax(logits[:, t], moment.temperature, moment.generator) for t in range(tasks)]


def probabilities_of(logits: Tensor) -> torch.Tensor:
    """Return the probability that task t takes candidate j in layer l, (L, T, C), float64."""
    return torch.softmax(logits.detach().double(), dim=-1)

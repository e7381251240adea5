"""What MTL-NAS adds to the tasks' losses, and the expected cost of its networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each edge in nats, (E,), from the logit of its probability: 0 if certain, ln 2 at one half.

    Gao et al., Eq. 12, in a form that stays finite where a probability is rounded to 0 or 1.
    """
    return F.softplus(logits) - torch.sigmoid(logits) * logits


def mean_entropy(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean over target tasks of the mean entropy of the edges into them, in nats, a scalar (the authors' code)."""
    return torch.stack([entropies(a).mean() for a in logits]).mean()


def expected_cost(probabilities: Tensor, floor: float, edges: Tensor) -> Tensor:
    """Return `floor` + the sum of p times the cost of each edge (E,), a scalar: exact, since costs add up over edges."""
    return floor + (probabilities * edges).sum()

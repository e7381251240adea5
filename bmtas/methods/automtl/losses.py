"""What AutoMTL adds to the tasks' losses, and the expected cost of its networks, exactly.

Tasks draw their choices independently. At convolution i all tasks of a set S agree with probability q_i(S): the product of their
probabilities of the shared one, and, where skipping is doing nothing, of skipping besides; a single task agrees with itself, q_i({t}) = 1.
Their values are equal below the convolutions A if they agree at all of these, with probability Q_A(S) = product of q_i(S) over A. By
inclusion and exclusion over the non-empty sets of tasks

    E[groups at an operation below A]       = sum over S of (-1)^(|S|-1) Q_A(S)
    E[runs of a shared convolution below A] = sum over S of (-1)^(|S|-1) Q_A(S) product over t in S of p_t(shared)

which is our own derivation, as the paper counts parameters alone and merges no prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.methods.automtl.prices import OWN, SHARED, SKIP, Prices, Wiring

_LEAST = 1e-300
"""Below the logarithm of this, a probability is none."""


def layer_weights(depths: Sequence[int]) -> Tensor:
    """Return (D - d) / D for convolutions of depths d, (L,), D the greatest: 1 near the image, 0 at the end (supplement, policy regularisation)."""
    depth = torch.tensor(depths, dtype=torch.float32)
    return (depth.max() - depth) / depth.max()


def policy_regularisation(samples: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Return sum over tasks and convolutions of w_l (ln(1 + e^(s (g_own - g_shared))) + ln(1 + e^(s (g_skip - g_shared)))), a scalar.

    `samples` (T, L, 3) are softened draws, `weights` (L,). It draws tasks to the shared branch, near the image most. Source: the
    published code, where s is 6 in effect.
    """
    margins = samples[..., [OWN, SKIP]] - samples[..., SHARED, None]
    return (weights * F.softplus(scale * margins).sum(dim=-1)).sum()


class ExpectedCost:
    """The expected cost of the networks that a wiring and prices give; all that does not depend on probabilities is computed once."""

    def __init__(self, prices: Prices, wiring: Wiring, tasks: int) -> None:
        sizes = np.array([bin(subset).count("1") for subset in range(1, 2**tasks)])
        self._signs = torch.from_numpy(np.where(sizes % 2 == 1, 1.0, -1.0))
        self._single = torch.from_numpy(sizes == 1)
        self._identity = torch.from_numpy(wiring.identity)
        self._above = torch.from_numpy(np.concatenate([wiring.above, wiring.above_free])).double().T
        names = ("once", "run", "own", "skip", "free")
        self._prices = {name: torch.from_numpy(getattr(prices, name).astype(np.float64)) for name in names}
        self._fixed = prices.fixed

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Return the expected cost in base units, a scalar in float64, for (T, L, 3); differentiable."""
        p = probabilities.double()
        shared, prices = p[..., SHARED], self._prices
        together = _products(shared)
        agree = together + self._identity * _products(p[..., SKIP])
        agree = torch.where(self._single[:, None], torch.ones_like(agree), agree)
        equal = torch.exp(agree.clamp(min=_LEAST).log() @ self._above)
        convs = shared.shape[1]
        runs = self._signs @ (equal[:, :convs] * together)
        groups = self._signs @ equal[:, convs:]
        used = 1.0 - (1.0 - shared).prod(dim=0)
        alone = p[..., OWN].sum(dim=0) @ prices["own"] + p[..., SKIP].sum(dim=0) @ prices["skip"]
        return used @ prices["once"] + runs @ prices["run"] + groups @ prices["free"] + alone + self._fixed


def _products(p: Tensor) -> Tensor:
    """Return the product of the rows of (T, L) over each non-empty set of tasks, (2^T - 1, L); sets by their bits."""
    result = torch.ones_like(p[:1])
    for row in p:
        result = torch.cat([result, result * row])
    return result[1:]

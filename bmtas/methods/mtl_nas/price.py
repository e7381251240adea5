"""A price on the edges' costs by which the expected cost is within the budgets at any moment of the search: our own choice.

The paper knows no budget. A resource term alone presses all edges down alike, and once they are below one half the entropy takes them to
0: on `planted` a budget for a quarter of the edges ended with none. With a price edges compete instead: one that becomes more probable
makes it dearer for the others. The resource term then has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from costs.units import Budget, Resource

_MOST = 1e3
"""The greatest price: at this one an edge of mean cost has a probability that is rounded to 0."""
_HALVINGS = 60


class Price:
    """Lowers logits a to a - price * cost, with the least price >= 0 at which the expected cost is within all budgets.

    It maximises the expected sum of logits plus the entropy of the gates under the budgets (Lagrange). Costs are relative to what the
    budgets leave for edges, their mean is 1.
    """

    def __init__(self, budgets: Sequence[Budget], costs: Mapping[Resource, tuple[float, Tensor]]) -> None:
        """Take for each budget's resource the cost without any edge, and what each edge adds, (E,) float64."""
        self._limits = [(costs[b.resource][1], b.value - costs[b.resource][0]) for b in budgets]
        relative = [cost / max(left, float(cost.min())) for cost, left in self._limits]
        self._direction = torch.stack(relative).sum(dim=0) if relative else torch.zeros(())
        if relative:
            self._direction = self._direction / self._direction.mean()

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the lowered logits (E,), float64, differentiable: the price depends on all of them."""
        logits = logits.double()
        if not self._over(logits.detach(), 0.0):
            return logits
        low, high = 0.0, _MOST
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._over(logits.detach(), middle) else (low, middle)
        return logits - self._with_gradient(logits, high) * self._direction

    def _over(self, logits: Tensor, price: float) -> list[int]:
        p = torch.sigmoid(logits - price * self._direction)
        return [k for k, (cost, left) in enumerate(self._limits) if float((p * cost).sum()) > left]

    def _with_gradient(self, logits: Tensor, price: float) -> Tensor:
        """Return the price as a function of the logits: a Newton step from the solution has value 0 and the right derivative."""
        p = torch.sigmoid(logits - price * self._direction)
        cost, _ = max(self._limits, key=lambda limit: float((p.detach() * limit[0]).sum()) / max(limit[1], 1.0))
        spent = (p * cost).sum()
        slope = (p * (1 - p) * cost * self._direction).sum().detach()
        return price + (spent - spent.detach()) / slope.clamp(min=1e-30)

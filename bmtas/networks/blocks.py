"""Wide values, (N, k * channels, H, W): the channels of k candidates beside each other, made, summed and mixed.

All of it keeps the memory layout of what comes in, forward and backward, so that no convolution finds its input in another
order than its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the candidates' tensors one after the other along the first dimension; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def widened(x: Tensor, k: int) -> Tensor:
    """Return k copies of (N, channels, H, W) beside each other, (N, k * channels, H, W)."""
    result: Tensor = _Copies.apply(x, k)  # type: ignore[no-untyped-call]
    return result


def total(wide: Tensor, k: int) -> Tensor:
    """Return the sum over the k blocks of channels, (N, k * channels, H, W) to (N, channels, H, W)."""
    result: Tensor = _Total.apply(wide, k)  # type: ignore[no-untyped-call]
    return result


def mixture(wide: Tensor, weights: Tensor, k: int) -> Tensor:
    """Return the sum over the k blocks of channels, each times its entry of `weights` (k,)."""
    result: Tensor = _Mixture.apply(wide, weights.to(wide.dtype), k)  # type: ignore[no-untyped-call]
    return result


def _sum(wide: Tensor, k: int) -> Tensor:
    # Slices keep their memory layout; a reduction over five dimensions takes three times as long.
    first, *others = wide.chunk(k, dim=1)
    result = first + others[0] if others else first.clone()
    for other in others[1:]:
        result.add_(other)
    return result


class _Copies(torch.autograd.Function):
    """x to k copies beside each other; the adjoint of `_Total`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        ctx.k = k
        return torch.cat([x] * k, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient, ctx.k), None


class _Total(torch.autograd.Function):
    """The sum of k blocks of channels; the adjoint of `_Copies`."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, k: int) -> Tensor:
        ctx.k = k
        return _sum(wide, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.cat([gradient] * ctx.k, dim=1), None


class _Mixture(torch.autograd.Function):
    """sum_j w_j y_j over k blocks of channels, without a tensor of the products."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, weights: Tensor, k: int) -> Tensor:
        ctx.k = k
        # The blocks are needed again only for the gradient of the weights.
        ctx.save_for_backward(weights, wide if weights.requires_grad else None)
        blocks = wide.chunk(k, dim=1)
        result = blocks[0] * weights[0]
        for block, weight in zip(blocks[1:], weights[1:], strict=True):
            result.addcmul_(block, weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, wide = ctx.saved_tensors
        of_wide = torch.cat([gradient * w for w in weights], dim=1) if ctx.needs_input_grad[0] else None
        of_weights = None
        if ctx.needs_input_grad[1]:
            of_weights = torch.stack([(gradient * block).sum() for block in wide.chunk(ctx.k, dim=1)])
        return of_wide, of_weights, None

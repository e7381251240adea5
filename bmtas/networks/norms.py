"""Batch normalisation over the batches of all processes, on any device.

PyTorch's SyncBatchNorm works on GPUs only. This one computes the same on the CPU, too, so that what several processes
compute is what one would have computed with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class JointBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all processes' batches, which must be equally large."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- the name that nn.BatchNorm2d has
        """Map (N, channels, H, W) to the same shape."""
        if not self.training:
            return super().forward(input)
        tracked = self.track_running_stats and self.num_batches_tracked is not None
        if tracked:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        assert self.momentum is not None
        mean, var = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        return joint_batch_norm(input, mean, var, self.weight, self.bias, self.momentum, self.eps)


def joint_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return F.batch_norm(..., training=True) of the batches (N, channels, H, W) of all processes taken together.

    Running statistics (channels,) are updated in place, with the unbiased variance, as PyTorch does.
    """
    result, mean, var = _Joint.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    y: Tensor = result
    return y


def use_joint_norms(module: nn.Module) -> None:
    """Let every BatchNorm2d inside `module` take its statistics over all processes; parameters and statistics are kept."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            # The objects stay the same ones: forms of several candidates in one pass hold on to them.
            part.__class__ = JointBatchNorm2d


_CHANNELS = (0, 2, 3)
_Shape = tuple[int, int, int, int]


def _spread(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


class _Joint(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, and its gradient (Ioffe & Szegedy 2015, section 3), across processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(precise, dim=_CHANNELS, correction=0)
        stacked = torch.stack([mean, var])
        gathered = [torch.empty_like(stacked) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, stacked)
        means, variances = torch.stack(gathered).unbind(dim=1)
        mean = means.mean(dim=0)
        # The variance of all is the mean of the variances plus the variance of the means.
        var = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        scale = torch.rsqrt(var + eps)
        factor = scale if weight is None else scale * weight.to(scale.dtype)
        y = (precise - _spread(mean)) * _spread(factor)
        if bias is not None:
            y = y + _spread(bias.to(y.dtype))
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, mean, scale, weight = ctx.saved_tensors
        dy = gradient.to(scale.dtype)
        normal = (x.to(scale.dtype) - _spread(mean)) * _spread(scale)
        of_bias, of_weight = dy.sum(dim=_CHANNELS), (dy * normal).sum(dim=_CHANNELS)
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_bias, of_weight])
            dist.all_reduce(sums)
            sums /= x.numel() // x.shape[1] * dist.get_world_size()
            factor = scale if weight is None else scale * weight.to(scale.dtype)
            of_x = ((dy - _spread(sums[0]) - normal * _spread(sums[1])) * _spread(factor)).to(x.dtype)
        # The parameters' own gradients stay this process's share, to be summed with all others.
        own_weight = None if weight is None else of_weight.to(weight.dtype)
        return of_x, own_weight, of_bias if ctx.has_bias else None, None

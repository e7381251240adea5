"""Dilated depthwise convolutions on a CPU, as plain ones on interleaved subgrids.

A convolution with dilation d reads, for an output pixel, only inputs whose row and column differ from its own by
multiples of d. So the d * d interleaved subgrids do not see each other: put beside each other in the batch, a plain
convolution gives the same sums of the same products (the "space to batch" of Chen et al. 2018, DeepLabv3+). On CPUs this
is several times faster, because oneDNN has no fast gradients for the dilated form (`benchmarks/search_step.py --parts`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SubgridConv2d(nn.Conv2d):
    """A convolution that takes the form of subgrids where `convolve` finds it faster; everything else is nn.Conv2d's."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return convolve(self, x, self.weight, self.bias, self.groups)


def use_subgrids(module: nn.Module) -> None:
    """Let the dilated depthwise convolutions inside `module` be SubgridConv2d; parameters and their names stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and _fits(child):
                setattr(parent, name, _with_subgrids(child))


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Apply the convolution `conv` with other weights: (N, channels, H, W) to (N, outputs, H', W').

    `weight` is (outputs, channels / groups, kernel, kernel). Equal to F.conv2d with the stride, padding and dilation of
    `conv`, in another order of summation if subgrids are used.
    """
    on_subgrids = isinstance(conv, SubgridConv2d) and x.device.type == "cpu" and groups == x.shape[1]
    # In the order NHWC a subgrid is moved by whole runs of channels; in NCHW it would be pixel by pixel.
    if on_subgrids and x.is_contiguous(memory_format=torch.channels_last):
        return _on_subgrids(x, weight, bias, conv.dilation[0])
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)


def _on_subgrids(x: Tensor, weight: Tensor, bias: Tensor | None, d: int) -> Tensor:
    images, channels, height, width = x.shape
    # Subgrids must have one size. What is added is zero, as the padding is, so nothing else changes.
    x = F.pad(x, (0, -width % d, 0, -height % d)) if width % d or height % d else x
    rows, columns = x.shape[2] // d, x.shape[3] // d
    grids = x.permute(0, 2, 3, 1).reshape(images, rows, d, columns, d, channels).permute(0, 2, 4, 1, 3, 5)
    grids = grids.reshape(images * d * d, rows, columns, channels).permute(0, 3, 1, 2)
    out = F.conv2d(grids, weight, bias, padding=weight.shape[-1] // 2, groups=channels)
    out = out.permute(0, 2, 3, 1).reshape(images, d, d, rows, columns, -1).permute(0, 3, 1, 4, 2, 5)
    out = out.reshape(images, rows * d, columns * d, -1)[:, :height, :width].permute(0, 3, 1, 2)
    return out.contiguous(memory_format=torch.channels_last)  # a copy only where something was cut off


def _fits(conv: nn.Conv2d) -> bool:
    """Whether `conv` is depthwise, dilated alike in both directions, and keeps the size."""
    d, k = conv.dilation[0], conv.kernel_size[0]
    square = conv.dilation == (d, d) and conv.kernel_size == (k, k)
    keeps_size = conv.stride == (1, 1) and k % 2 == 1 and conv.padding == (d * (k // 2),) * 2
    return square and keeps_size and d > 1 and conv.groups == conv.in_channels and conv.padding_mode == "zeros"


def _with_subgrids(conv: nn.Conv2d) -> SubgridConv2d:
    """Return the same convolution with the same parameters."""
    twin = SubgridConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type] # the stubs' tuples have no length
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    twin.weight, twin.bias = conv.weight, conv.bias
    return twin.train(conv.training)

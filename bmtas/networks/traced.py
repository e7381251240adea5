"""Traced operations of a backbone: `convs.012`, `norms.013` behind it, `skips.012` in its place, and `glue.014`, which has no choice.

The numbers are places in the order of execution (`bmtas.networks.tracing`).
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import initialise
from bmtas.networks.operations import Kit
from bmtas.networks.tracing import Kind, Trace, Traced, trace_of

SKIPS = "skips"
"""Family of what stands in the place of a convolution that changes channels or size."""


class Skip(nn.Module):
    """A 1x1 convolution of every n-th pixel, n the stride of the convolution that it stands for, and batch normalisation.

    Source: AutoMTL, supplement, algorithm 1. Where that convolution does not pad by half its extent, the borders are cut or padded by what
    makes the output as large.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.borders, self.stride = _borders(conv), tuple(conv.stride)
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W'), the shape that the convolution gives."""
        if any(self.borders):
            x = nn.functional.pad(x, self.borders)
        if self.stride != (1, 1):
            # A 1x1 convolution with the stride itself writes beyond its memory on CPUs: oneDNN's gradients for three channels do.
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        result: Tensor = self.norm(self.conv(x))
        return result


def _borders(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return by how much a 1x1 convolution with the same stride must pad (or cut, below 0): left, right, top, bottom."""
    padding = (0, 0) if isinstance(conv.padding, str) else conv.padding
    borders: list[int] = []
    for kernel, dilation, pad in reversed(list(zip(conv.kernel_size, conv.dilation, padding, strict=True))):
        reach = dilation * (kernel - 1)
        total = 0 if conv.padding == "same" else 2 * pad - reach
        borders += [total // 2, total - total // 2]
    left, right, top, bottom = borders
    return left, right, top, bottom


def keeps_shape(conv: nn.Conv2d) -> bool:
    """Say whether the output of a convolution has the shape of its input, so that it can be skipped by doing nothing."""
    return conv.in_channels == conv.out_channels and set(conv.stride) == {1} and not any(_borders(conv))


def skip_name(conv: Traced) -> str:
    """Return the operation that stands for a convolution where that is skipped but not by doing nothing."""
    return f"{SKIPS}.{conv.place:03d}"


def conv_of(trace: Trace, place: int, kit: Kit) -> nn.Conv2d:
    """Return the backbone's own convolution at `place`, not to be changed."""
    traced = trace.operations[place]
    found = kit.prototypes[traced.owner].get_submodule(traced.path)
    assert isinstance(found, nn.Conv2d)
    return found


def build(operation: str, kit: Kit) -> nn.Module:
    """Return the module of a traced operation, with the backbone's pretrained weights where the kit has them.

    Raises UsageError for a name that the backbone has not.
    """
    trace = trace_of(kit.backbone)
    family, _, number = operation.partition(".")
    replaced = trace.by_name.get(f"{Kind.CONV.value}.{number}")
    if family == SKIPS and replaced is not None and not keeps_shape(conv := conv_of(trace, replaced.place, kit)):
        skip = Skip(conv)
        initialise(skip)
        return skip
    traced = trace.by_name.get(operation)
    if traced is None:
        raise UsageError(
            f"architecture: {kit.backbone.name} has no operation {operation!r}; it has {len(trace.operations)} traced ones, "
            f"from {trace.operations[0].name} to {trace.operations[-1].name}"
        )
    if traced.kind is Kind.GLUE:
        made = trace.glue(traced.place, kit.prototypes)
    else:
        made = copy.deepcopy(kit.prototypes[traced.owner].get_submodule(traced.path))
    if not kit.pretrained(traced.owner):
        initialise(made)
    return made

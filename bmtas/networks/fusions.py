"""Operations that join what several paths computed: `fusions.layers.07.3` joins 3 outputs of layer 7, `sums.3` adds 3 values by weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.operations import Kit

NORM_MOMENTUM = 0.05
"""Of a fusion's normalisation, as the authors of NDDR-CNN have it."""


class Fusion(nn.Module):
    """NDDR (Gao et al., CVPR 2019): ReLU(BN(Conv1x1([x_1, ..., x_k]))), the first input being the task's own features.

    The convolution has no bias and begins as a multiple of the identity for each input: `own` for the first, `others` for the
    rest (MTL-NAS, section 3.3).
    """

    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.channels, self.inputs = channels, inputs
        self.conv = nn.Conv2d(inputs * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=NORM_MOMENTUM)
        self.relu = nn.ReLU(inplace=True)
        self.begin(1.0, 0.0)

    def begin(self, own: float, others: float) -> None:
        """Set the convolution to `own` times the identity for the first input and `others` times it for each of the rest."""
        identity = torch.eye(self.channels)
        blocks = [own * identity] + [others * identity] * (self.inputs - 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.cat(blocks, dim=1)[:, :, None, None])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map k tensors (N, C, H, W) to one."""
        return self.relu(self.norm(self.conv(torch.cat(inputs, dim=1))))


class WeightedSum(nn.Module):
    """sum_i w_i x_i with a learned scalar per input: scalars on the edges of the graph."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((inputs,), 1.0 / inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map k tensors of one shape to one."""
        return weighted_sum(inputs, (self.weights[i] for i in range(len(inputs))))


def weighted_sum(values: Iterable[Tensor], weights: Iterable[Tensor | float]) -> Tensor:
    """Return sum_i w_i x_i for tensors of one shape, at least one, and a scalar for each; what has the number 1.0 is taken as it is.

    No matrix product: these are no multiply-adds of convolutions, and are not to be counted as such. Raises ValueError where the
    numbers of both differ.
    """
    parts = (
        value if isinstance(weight, float) and weight == 1.0 else value * weight
        for value, weight in zip(values, weights, strict=True)
    )
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def build(operation: str, kit: Kit) -> nn.Module:
    """Return the module of a fusion or a weighted sum. Raises UsageError for a name that says neither."""
    family, _, rest = operation.partition(".")
    place, _, count = rest.rpartition(".")
    inputs = int(count) if count.isdecimal() else 0
    if family == "sums" and not place and inputs:
        return WeightedSum(inputs)
    if family == "fusions" and place in kit.shapes and inputs:
        return Fusion(kit.shapes[place][1], inputs)
    raise UsageError(
        f"architecture: no operation {operation!r}; a fusion is called fusions.LAYER.INPUTS with a layer of {kit.backbone.name}, a weighted "
        "sum sums.INPUTS"
    )

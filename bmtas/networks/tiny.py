"""`tiny`: six small layers for checks of searches, not for products. It has no pretrained weights.

It is made for the data set `planted` (`bmtas.data.planted`): the first half has room for what two pairs of tasks need, the
second half for one pair alone. All layers cost the same, so that a budget counts layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from bmtas.networks.backbone import Backbone, Parts, conv_norm

WIDE, NARROW = 12, 4
"""Channels after the stem and each of the first three layers, and after each of the last three."""

NARROWING = 3
"""Index of the layer that goes from WIDE to NARROW channels."""

# Hidden channels h of a layer from i to o channels, such that each layer takes h (9 i + o) = 1680 multiply-adds per place.
_HIDDEN = {(WIDE, WIDE): 14, (WIDE, NARROW): 15, (NARROW, NARROW): 42}
_LAYERS = 6
_STRIDE = 4  # of the stem; no layer changes the resolution


class TinyBlock(nn.Module):
    """A 3x3 convolution, ReLU6, a 1x1 convolution, and the input added where it has as many channels.

    There is no activation at the end, as in MobileNetV2: negative numbers pass, so that n channels carry n numbers.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = _HIDDEN[inputs, outputs]
        self.conv = nn.Sequential(
            conv_norm(inputs, hidden, 3, nn.ReLU6), nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return x + self.conv(x) if self.residual else self.conv(x)


def _build() -> Parts:
    widths = [WIDE] * (NARROWING + 1) + [NARROW] * (_LAYERS - NARROWING)
    layers = tuple(TinyBlock(widths[i], widths[i + 1]) for i in range(_LAYERS))
    stem = nn.Sequential(nn.Conv2d(3, WIDE, _STRIDE, stride=_STRIDE, bias=False), nn.BatchNorm2d(WIDE))
    names = ("stem", *(f"layers.{i:02d}" for i in range(_LAYERS)))
    return Parts(stem, layers, {name: name for name in names})


def _last_norm(layer: nn.Module) -> str:
    return "conv.2"


TINY = Backbone(
    name="tiny",
    build=_build,
    layers=_LAYERS,
    tap=_LAYERS - 1,  # an earlier one would let a head go round the narrow layers
    tap_channels=NARROW,
    channels=NARROW,
    stride=_STRIDE,
    decoder_channels=16,
    separable=False,
    weights_name=None,
    last_norm=_last_norm,
    stages=(NARROWING + 1, _LAYERS - NARROWING),
)

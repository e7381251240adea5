"""MobileNetV2 (Sandler et al. 2018) with R-ASPP: 17 inverted residual blocks and the R-ASPP module, output stride 16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmtas.networks.backbone import Backbone, Parts, PooledContext, conv_norm
from bmtas.torchvision_remedy import import_torchvision

# torchvision's features[14] is the last block with stride 2; the network's output stride would be 32 without it.
_UNSTRIDED = 14
_BLOCKS = 17
_ASPP_CHANNELS = 128


class RASPP(nn.Module):
    """The reduced ASPP of MobileNetV2: a 1x1 branch and a pooled branch, joined by a 1x1 convolution."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.local = conv_norm(inputs, channels, 1, nn.ReLU6)
        self.pooled = PooledContext(inputs, channels, nn.ReLU6)
        self.project = conv_norm(2 * channels, channels, 1, nn.ReLU6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, channels, H, W)."""
        return self.project(torch.cat([self.local(x), self.pooled(x)], dim=1))


def _build() -> Parts:
    features = import_torchvision().models.mobilenet_v2(weights=None).features
    for index in range(_UNSTRIDED, _BLOCKS + 1):
        for part in features[index].modules():
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
                # The block that gives up its stride still reads the old grid; the ones after it read every second
                # pixel, so that all kernels see what they saw in training (as DeepLab does it).
                rate = 1 if index == _UNSTRIDED else 2
                part.stride, part.dilation, part.padding = (1, 1), (rate, rate), (rate, rate)
    blocks = tuple(features[i] for i in range(1, _BLOCKS + 1))
    keys = {"features.0": "stem"} | {f"features.{i + 1}": f"layers.{i:02d}" for i in range(_BLOCKS)}
    return Parts(features[0], (*blocks, RASPP(320, _ASPP_CHANNELS)), keys)


def _last_norm(layer: nn.Module) -> str:
    if isinstance(layer, RASPP):
        return "project.1"
    return f"conv.{len(layer.conv) - 1}"  # type: ignore[arg-type]


MOBILENET_V2 = Backbone(
    name="mobilenet_v2",
    build=_build,
    layers=_BLOCKS + 1,
    tap=2,  # after the third block: 24 channels at stride 4
    tap_channels=24,
    channels=_ASPP_CHANNELS,
    stride=16,
    decoder_channels=128,
    separable=True,
    weights_name="MobileNet_V2_Weights.IMAGENET1K_V2",
    last_norm=_last_norm,
    stages=(1, 1, 2, 3, 4, 3, 3, 1),
)

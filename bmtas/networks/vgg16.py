"""VGG-16 with batch normalisation (Simonyan & Zisserman 2015) and DeepLab-LargeFOV (Chen et al. 2015), output stride 8.

The stem is the first convolution, the next twelve layers are the other convolutions, each with its normalisation, its ReLU
and the pooling before it, and the last layer is the LargeFOV module. The convolutions have the shapes and biases of torchvision's `vgg16_bn`, whose
fully connected layers are not made: they would be six times as many parameters.

It is the backbone of MTL-NAS (Gao et al., CVPR 2020), and differs from the authors' network in this: the heads are those of the
other backbones here (the decoder of DeepLabv3+) instead of one 1x1 convolution, there is no dropout before them, the
three poolings that reduce are torchvision's 2x2 and not 3x3, and normalisations have PyTorch's epsilon and momentum (1e-5, 0.1; theirs
1e-3, 0.05).
"""

from __future__ import annotations

from torch import Tensor, nn

from bmtas.graph import layer_name
from bmtas.networks.backbone import Backbone, Parts, conv_norm

_STAGES = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
_FOV_CHANNELS = 1024
_FOV_RATE = 12


class LargeFOV(nn.Module):
    """The fully connected layers of VGG as convolutions with a large field of view: a dilated 3x3 and a 1x1 one, after pooling."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        )
        self.wide = conv_norm(inputs, channels, 3, nn.ReLU, dilation=_FOV_RATE)
        self.project = conv_norm(channels, channels, 1, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, channels, H, W)."""
        return self.project(self.wide(self.pool(x)))


def _build() -> Parts:
    keys: dict[str, str] = {}
    layers: list[nn.Sequential] = []
    inputs, place = 3, 0  # the next part's place in torchvision's `features`
    for stage, (count, width) in enumerate(zip(_STAGES, _WIDTHS, strict=True)):
        for i in range(count):
            name = layer_name(len(layers) - 1) if layers else "stem"
            keys |= {f"features.{place}": f"{name}.conv", f"features.{place + 1}": f"{name}.norm"}
            layers.append(_convolution(inputs, width, pooled=stage > 0 and i == 0, last=stage == len(_STAGES) - 1))
            inputs, place = width, place + 3
        place += 1  # the pooling
    return Parts(layers[0], (*layers[1:], LargeFOV(inputs, _FOV_CHANNELS)), keys)


def _convolution(inputs: int, outputs: int, *, pooled: bool, last: bool) -> nn.Sequential:
    """Return a convolution, its normalisation and ReLU, `pooled` with the pooling before it; the `last` stage keeps the resolution."""
    layer = nn.Sequential()
    if pooled:
        # 3x3 where the resolution is kept, because a 2x2 one cannot keep it evenly.
        layer.add_module("pool", nn.MaxPool2d(3, stride=1, padding=1) if last else nn.MaxPool2d(2))
    rate = 2 if last else 1  # so that kernels see as far as they did in training (as DeepLab does it)
    layer.add_module("conv", nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate))
    layer.add_module("norm", nn.BatchNorm2d(outputs))
    layer.add_module("relu", nn.ReLU(inplace=True))
    return layer


def _last_norm(layer: nn.Module) -> str:
    return "project.1" if isinstance(layer, LargeFOV) else "norm"


VGG16 = Backbone(
    name="vgg16",
    build=_build,
    layers=sum(_STAGES),  # one convolution is the stem, and the LargeFOV module is a layer more
    tap=5,  # after the third stage: 256 channels at stride 4
    tap_channels=256,
    channels=_FOV_CHANNELS,
    stride=8,
    decoder_channels=256,
    separable=False,
    weights_name="VGG16_BN_Weights.IMAGENET1K_V1",
    last_norm=_last_norm,
    stages=_STAGES,
)

"""ResNet-50 (He et al. 2016) with ASPP (Chen et al. 2018): 16 bottleneck blocks and the ASPP module, output stride 16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmtas.networks.backbone import Backbone, Parts, PooledContext, conv_norm
from bmtas.torchvision_remedy import import_torchvision

_STAGES = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
_ASPP_CHANNELS = 256
_RATES = (6, 12, 18)  # DeepLabv3+, output stride 16


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 branch, three dilated 3x3 branches, a pooled branch, a 1x1 projection."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.local = conv_norm(inputs, channels, 1, nn.ReLU)
        self.atrous = nn.ModuleList(conv_norm(inputs, channels, 3, nn.ReLU, dilation=rate) for rate in _RATES)
        self.pooled = PooledContext(inputs, channels, nn.ReLU)
        self.project = conv_norm((2 + len(_RATES)) * channels, channels, 1, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, channels, H, W)."""
        branches = [self.local(x), *(branch(x) for branch in self.atrous), self.pooled(x)]
        return self.project(torch.cat(branches, dim=1))


def _build() -> Parts:
    model = import_torchvision().models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    stem = nn.Sequential()
    for name in ("conv1", "bn1", "relu", "maxpool"):
        stem.add_module(name, getattr(model, name))
    keys = {"conv1": "stem.conv1", "bn1": "stem.bn1"}
    blocks: list[nn.Module] = []
    for stage, count in _STAGES.items():
        for i in range(count):
            keys[f"{stage}.{i}"] = f"layers.{len(blocks):02d}"
            blocks.append(getattr(model, stage)[i])
    return Parts(stem, (*blocks, ASPP(2048, _ASPP_CHANNELS)), keys)


def _last_norm(layer: nn.Module) -> str:
    return "project.1" if isinstance(layer, ASPP) else "bn3"


RESNET50 = Backbone(
    name="resnet50",
    build=_build,
    layers=sum(_STAGES.values()) + 1,
    tap=2,  # after the first stage: 256 channels at stride 4
    tap_channels=256,
    channels=_ASPP_CHANNELS,
    stride=16,
    decoder_channels=256,
    separable=False,
    weights_name="ResNet50_Weights.IMAGENET1K_V2",
    last_norm=_last_norm,
    stages=(1, *_STAGES.values()),
)

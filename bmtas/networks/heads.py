"""Task-specific heads: the decoder of DeepLabv3+ (Chen et al. 2018) for dense tasks, a linear one for classification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.networks.backbone import Backbone, conv_norm
from bmtas.tasks import Task

_TAP_CHANNELS = 48  # DeepLabv3+, section 4.1: the low-level features are reduced to 48 channels


def _conv3x3(inputs: int, outputs: int, backbone: Backbone) -> nn.Sequential:
    """3x3 convolution, depthwise separable where the backbone is light; ReLU6 for MobileNetV2 (paper, appendix B)."""
    if not backbone.separable:
        return conv_norm(inputs, outputs, 3, nn.ReLU)
    return nn.Sequential(conv_norm(inputs, inputs, 3, nn.ReLU6, groups=inputs), conv_norm(inputs, outputs, 1, nn.ReLU6))


class DenseHead(nn.Module):
    """Decoder of one dense task; its raw predictions have the tap's resolution."""

    def __init__(self, task: Task, backbone: Backbone) -> None:
        super().__init__()
        width = backbone.decoder_channels
        activation = nn.ReLU6 if backbone.separable else nn.ReLU
        self.reduce = conv_norm(backbone.tap_channels, _TAP_CHANNELS, 1, activation)
        self.refine = nn.Sequential(
            _conv3x3(backbone.channels + _TAP_CHANNELS, width, backbone), _conv3x3(width, width, backbone)
        )
        self.predict = nn.Conv2d(width, task.channels, 1)

    def forward(self, features: Tensor, tap: Tensor) -> Tensor:
        """Map (N, channels, H/16, W/16) and (N, tap_channels, H/4, W/4) to (N, task.channels, H/4, W/4)."""
        low = self.reduce(tap)
        high = F.interpolate(features, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.predict(self.refine(torch.cat([high, low], dim=1)))


class ClassificationHead(nn.Module):
    """Global average pooling and one linear layer."""

    def __init__(self, task: Task, backbone: Backbone) -> None:
        super().__init__()
        self.predict = nn.Linear(backbone.channels, task.channels)

    def forward(self, features: Tensor, tap: Tensor) -> Tensor:
        """Map (N, channels, H/16, W/16) to (N, task.channels); the tap is not used."""
        return self.predict(features.mean(dim=(2, 3)))


def build_head(task: Task, backbone: Backbone) -> nn.Module:
    """Return the head of `task` for `backbone`."""
    return DenseHead(task, backbone) if task.dense else ClassificationHead(task, backbone)

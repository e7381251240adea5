"""The attention of MTAN (Liu et al., CVPR 2019): `masks.layers.02` masks the output of layer 2 for one task, `refines.layers.02` refines it.

The encoder is shared. In every stage, a task's mask is computed from what the stage's last layer reads (u_b) and what the task
has refined in the stage before, and is multiplied with what that layer gives (u_t). The refined product goes on to the next
stage. The publication's form, which is that of the multiply-adds in tables 1 and 2 of Bruggemann et al. (BMVC 2020): the mask has as
many channels inside as outside, and the refinement is one 3x3 convolution, after the last stage as well. On MobileNetV2 that is
depthwise separable and all ReLU are ReLU6 (appendix B there).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.graph import layer_name
from bmtas.networks.backbone import conv_norm, initialise
from bmtas.networks.operations import Kit


@dataclass(frozen=True)
class Place:
    """A stage with attention: masks multiply the output of `last` and are computed from that of `before`.

    `before_channels` and `channels` are theirs, `refined_channels` what the refinement gives, and `pooled` by how much the
    encoder has reduced the resolution since the place before.
    """

    before: str
    last: str
    before_channels: int
    channels: int
    refined_channels: int
    pooled: int


def places_of(kit: Kit) -> tuple[Place, ...]:
    """Return the stages with attention: those at the resolution of the decoders' tap or below it, but not a stem alone.

    On ResNet-50 these are the four stages of the authors' code. On MobileNetV2 they give the multiply-adds of the paper's table 1;
    with the stage at half the resolution there would be 5 % more (our own reading; nothing says it).
    """
    shapes = kit.shapes
    coarsest = shapes[layer_name(kit.backbone.tap)][2]
    names, chosen = (
        tuple(shapes),
        [s for s in kit.backbone.stage_names() if s != ("stem",) and shapes[s[-1]][2] <= coarsest],
    )
    places = []
    for i, stage in enumerate(chosen):
        last, previous = stage[-1], names[names.index(stage[-1]) - 1]
        # A stage of one layer that strides has nothing else of its resolution.
        before = previous if shapes[previous][2] == shapes[last][2] else last
        following = chosen[min(i + 1, len(chosen) - 1)][-1]
        earlier = chosen[max(i - 1, 0)][-1]
        places.append(
            Place(
                before=before,
                last=last,
                before_channels=shapes[before][1],
                channels=shapes[last][1],
                refined_channels=shapes[following][1],
                pooled=shapes[earlier][2] // shapes[last][2],
            )
        )
    return tuple(places)


class Mask(nn.Module):
    """sigmoid(BN(conv1x1(relu(BN(conv1x1([u_b, pooled]))))) * u_t, `pooled` being what was refined before, at u_b's resolution."""

    def __init__(self, inputs: int, channels: int, pooled: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(pooled, ceil_mode=True) if pooled > 1 else nn.Identity()
        self.squeeze = conv_norm(inputs, channels, 1, activation)
        self.spread = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid()
        )

    def forward(self, before: Tensor, last: Tensor, refined: Tensor | None = None) -> Tensor:
        """Map u_b (N, B, H, W), u_t (N, C, H, W) and, but in the first place, (N, C, pooled H, pooled W) to (N, C, H, W)."""
        if refined is not None:
            pooled = self.pool(refined)
            height, width = before.shape[2], before.shape[3]
            if (pooled.shape[2], pooled.shape[3]) != (height, width):  # an encoder that drops an odd row
                pooled = pooled[:, :, :height, :width]
            before = torch.cat([before, pooled], dim=1)
        masked: Tensor = self.spread(self.squeeze(before)) * last
        return masked


def _refine(inputs: int, outputs: int, activation: type[nn.Module], *, separable: bool) -> nn.Module:
    """A 3x3 convolution, depthwise separable where the backbone is light, with normalisation and activation."""
    if not separable:
        return conv_norm(inputs, outputs, 3, activation)
    return nn.Sequential(
        conv_norm(inputs, inputs, 3, activation, groups=inputs), conv_norm(inputs, outputs, 1, activation)
    )


def build(operation: str, kit: Kit) -> nn.Module:
    """Return the module of a mask or a refinement. Raises UsageError for a name that says neither."""
    family, _, last = operation.partition(".")
    places = places_of(kit)
    index = next((i for i, place in enumerate(places) if place.last == last), None)
    if index is None or family not in ("masks", "refines"):
        raise UsageError(
            f"architecture: no operation {operation!r}; attention is called masks.LAYER or refines.LAYER with the last layer of a "
            f"stage of {kit.backbone.name}: {', '.join(place.last for place in places)}"
        )
    place, activation = places[index], nn.ReLU6 if kit.backbone.separable else nn.ReLU
    if family == "masks":
        inputs = place.before_channels + (place.channels if index else 0)
        made: nn.Module = Mask(inputs, place.channels, place.pooled, activation)
    else:
        made = _refine(place.channels, place.refined_channels, activation, separable=kit.backbone.separable)
    initialise(made)
    return made

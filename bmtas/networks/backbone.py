"""The adapter through which a torchvision classification network becomes a stem, searchable layers and a tap."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bmtas.errors import UsageError
from bmtas.graph import layer_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """One instance of a backbone, cut at its layers.

    `stem` maps (N, 3, H, W) to the first layer's input; `layers` are applied one after the other; the last of them is
    the ASPP module, the only one without pretrained weights. `keys` maps the state-dict prefix of each pretrained
    part in torchvision's model to the operation's name here.
    """

    stem: nn.Module
    layers: tuple[nn.Module, ...]
    keys: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What the house knows of a backbone.

    `tap` is the index of the layer whose output the decoder reads beside the encoder's last one; `tap_channels` and
    `channels` are the channels of the two. `stride` is the encoder's output stride, `decoder_channels` the width of
    the decoder, whose 3x3 convolutions are depthwise separable if `separable`. `weights_name` is the member
    of torchvision's weights enum that `--weights imagenet` loads, None where there is none. `last_norm` names, inside a layer, the
    normalisation after which nothing but the residual sum comes. `stages` cuts the stem and the layers after it, but for the ASPP
    module, into runs whose outputs have one resolution and number of channels: how many of them each stage has.
    """

    name: str
    build: Callable[[], Parts]
    layers: int
    tap: int
    tap_channels: int
    channels: int
    stride: int
    decoder_channels: int
    separable: bool
    weights_name: str | None
    last_norm: Callable[[nn.Module], str]
    stages: tuple[int, ...]

    def operations(self) -> dict[str, nn.Module]:
        """Return a fresh instance of every encoder operation, by name: the stem, then the layers in order."""
        parts = self.build()
        modules: dict[str, nn.Module] = {"stem": parts.stem}
        modules.update({layer_name(i): layer for i, layer in enumerate(parts.layers)})
        return modules

    def stage_names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names of the stem and the layers in each stage."""
        names = ["stem", *self.layer_names()]
        ends = list(itertools.accumulate(self.stages, initial=0))
        return tuple(tuple(names[a:b]) for a, b in itertools.pairwise(ends))

    def layer_names(self) -> tuple[str, ...]:
        """Return the names of the searchable layers."""
        return tuple(layer_name(i) for i in range(self.layers))


def known_backbones() -> dict[str, Backbone]:
    """Return all backbones by name."""
    from bmtas.networks.mobilenet_v2 import MOBILENET_V2
    from bmtas.networks.resnet50 import RESNET50
    from bmtas.networks.tiny import TINY
    from bmtas.networks.vgg16 import VGG16

    return {b.name: b for b in (MOBILENET_V2, RESNET50, TINY, VGG16)} | _OWN


_OWN: dict[str, Backbone] = {}
"""Those that were brought from outside (`bmtas.adapters`)."""


def add_backbone(backbone: Backbone) -> None:
    """Let `backbone` be known by its name, until the process ends; one brought before gives way. Raises UsageError for a name that stands for another one."""
    from bmtas.networks.torchvision_backbones import torchvision_names

    # Without its plugin a run of that name would be taken for one of the house's or torchvision's, whose weights may even fit.
    taken = backbone.name in known_backbones() or backbone.name in torchvision_names()
    if taken and backbone.name not in _OWN:
        raise UsageError(
            f"there is a backbone {backbone.name!r} already, of bmtas or of torchvision; give yours another name"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", backbone.name):
        raise UsageError(
            f"the name of a backbone is of letters, digits, '_', '.' and '-', not {backbone.name!r}; rename it"
        )
    _OWN[backbone.name] = backbone


def get_backbone(name: str) -> Backbone:
    """Return the backbone called `name`, else the one made of torchvision's model of that name.

    Raises UsageError with the nearest known name, or with why the model cannot be cut into layers.
    """
    backbones = known_backbones()
    if name in backbones:
        return backbones[name]
    from bmtas.networks.torchvision_backbones import torchvision_backbone, torchvision_names

    others = torchvision_names()
    if name in others:
        return torchvision_backbone(name)
    close = difflib.get_close_matches(name.lower(), [*backbones, *others], n=1, cutoff=0.8)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"unknown backbone {name!r}; {meant}known: {', '.join(sorted(backbones))}, and torchvision's convolutional classifiers by their names, "
        "such as resnet18; `bmtas --plugin FILE ...` brings one of your own"
    )


def channels_last(module: nn.Module) -> None:
    """Lay the weights of `module` out as NHWC, in place: the order in which CPUs and tensor cores convolve faster."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in the stubs


def fresh_copy(module: nn.Module, *, pretrained: bool) -> nn.Module:
    """Return a copy of `module`; without pretrained weights it gets a random initialisation of its own."""
    clone = copy.deepcopy(module)
    if not pretrained:
        initialise(clone)
    return clone


def initialise(module: nn.Module) -> None:
    """Initialise all parameters as torchvision does: He et al. 2015 (fan out) for convolutions, 1 and 0 for norms."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            if part.affine:
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)


def conv_norm(
    inputs: int, outputs: int, kernel: int, activation: type[nn.Module], *, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the size, batch normalisation and an activation: (N, inputs, H, W) to (N, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(
            inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
        activation(inplace=True),
    )


class PooledContext(nn.Module):
    """Image-level features: global average, 1x1 convolution, spread over the input's size again (Chen et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv = conv_norm(inputs, outputs, 1, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), constant over H and W."""
        return self.conv(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])

"""Operations between hidden states, after Choi & Im (CVPR 2023): `links.03.05`, `read_ins.03`, `read_outs.05`.

The states v_1 to v_n have the channels and strides of the backbone's stem and layers but for the last layer (the ASPP module); v_0
is the image. The image comes into v_1 through the backbone's stem, which maps to exactly that shape: our own choice, because
where the stem has a stride, a resized image lacks what the stem sees. All else between states is computed by operations of this
file, which no pretrained weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.graph import layer_name
from bmtas.networks.backbone import conv_norm, initialise
from bmtas.networks.operations import Kit

_IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class State:
    """The shape of a hidden state: (N, channels, ceil(H / stride), ceil(W / stride)) for an image (N, 3, H, W)."""

    channels: int
    stride: int


def hidden_states(kit: Kit) -> tuple[State, ...]:
    """Return v_1 to v_n: the shapes of the backbone's stem and layers but for the last layer."""
    names = ["stem", *(layer_name(i) for i in range(kit.backbone.layers - 1))]
    image = 256  # `Kit.shapes` are those for an image of 256x256
    return tuple(State(kit.shapes[name][1], image // kit.shapes[name][2]) for name in names)


def state_name(index: int) -> str:
    """Return the name of state `index`, as it stands in operations and weights."""
    return f"{index:02d}"


def arc_operation(source: int, target: int, states: int) -> str:
    """Return the operation on the arc between two states of v_0 (the image) to v_(states + 1) (the read-out)."""
    if (source, target) == (0, 1):
        return "stem"
    if source == 0:
        return f"read_ins.{state_name(target)}"
    if target == states + 1:
        return f"read_outs.{state_name(source)}"
    return f"links.{state_name(source)}.{state_name(target)}"


class Link(nn.Module):
    """A 3x3 convolution at the source's resolution, BN, ReLU, and max-pooling to the target's (Choi & Im, supplement, table 2).

    The kernel that table prints, H_j // H_i, would be 0 where the resolution falls; H_i // H_j is meant. With `separable` the
    convolution is depthwise 3x3 and 1x1, each with BN and ReLU6: our own choice for light backbones.
    """

    def __init__(self, source: State, target: State, *, separable: bool) -> None:
        super().__init__()
        inputs, outputs = source.channels, target.channels
        self.conv: nn.Module = conv_norm(inputs, outputs, 3, nn.ReLU)
        if separable:
            self.conv = nn.Sequential(
                conv_norm(inputs, inputs, 3, nn.ReLU6, groups=inputs), conv_norm(inputs, outputs, 1, nn.ReLU6)
            )
        self.ratio = target.stride // source.stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_i, H_i, W_i) to (N, C_j, H_j, W_j)."""
        x = self.conv(x)
        return F.max_pool2d(x, self.ratio, ceil_mode=True) if self.ratio > 1 else x


class Resized(nn.Module):
    """Bilinear resizing to a `ratio`-th of the height and width, rounded up, a 1x1 convolution and BN: a read-in or read-out.

    The paper's supplement says that both work on interpolated features and no more; the rest is our own choice.
    """

    def __init__(self, inputs: int, outputs: int, ratio: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / ratio), ceil(W / ratio))."""
        if self.ratio > 1:
            # Of positive numbers alone: an export may leave sizes free, and ONNX divides towards zero.
            size = [(side + self.ratio - 1) // self.ratio for side in x.shape[2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.norm(self.conv(x))


def build(operation: str, kit: Kit) -> nn.Module:
    """Return the module of a link, read-in or read-out, initialised. Raises UsageError for a name that says none of them."""
    family, *places = operation.split(".")
    states = hidden_states(kit)
    numbers = [int(place) if place.isdecimal() else 0 for place in places]
    known = all(1 <= n <= len(states) and state_name(n) == place for n, place in zip(numbers, places, strict=True))
    module: nn.Module | None = None
    if known and family == "links" and len(numbers) == 2:
        source, target = (states[number - 1] for number in numbers)
        if numbers[0] < numbers[1] and source.stride <= target.stride:
            module = Link(source, target, separable=kit.backbone.separable)
    elif known and len(numbers) == 1 and family in ("read_ins", "read_outs"):
        state, last = states[numbers[0] - 1], states[-1]
        if family == "read_ins" and numbers[0] > 1:
            module = Resized(_IMAGE_CHANNELS, state.channels, state.stride)
        elif family == "read_outs":
            module = Resized(state.channels, last.channels, last.stride // state.stride)
    if module is None:
        raise UsageError(
            f"architecture: no operation {operation!r}; {kit.backbone.name} has the states 01 to {state_name(len(states))}, links.I.J leads "
            "from one to a later one whose stride is not smaller, read_ins.J from the image to one but the first, read_outs.I from one to the read-out"
        )
    initialise(module)
    return module

"""Dilated depthwise convolutions on subgrids: the same numbers as PyTorch's own, and only where they fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.subgrids import SubgridConv2d, use_subgrids

CHANNELS = 6


def depthwise(dilation: int, kernel: int = 3, multiplier: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        CHANNELS, CHANNELS * multiplier, kernel, padding=padding, dilation=dilation, groups=CHANNELS
    ).double()


def image(height: int, width: int) -> Tensor:
    x = torch.randn(2, CHANNELS, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize(("dilation", "kernel"), [(2, 3), (3, 3), (2, 5)])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 2)])  # also sizes that subgrids do not divide, and smaller ones
@pytest.mark.parametrize("multiplier", [1, 2])
def test_values_and_gradients_are_those_of_the_dilated_convolution(
    dilation: int, kernel: int, size: tuple[int, int], multiplier: int
) -> None:
    holder = nn.Sequential(depthwise(dilation, kernel, multiplier))
    plain = holder[0]
    use_subgrids(holder)
    assert type(holder[0]) is SubgridConv2d
    channels_last(holder)
    x = image(*size)
    reference = F.conv2d(
        x, plain.weight, plain.bias, padding=plain.padding, dilation=plain.dilation, groups=plain.groups
    )
    weights = torch.randn(reference.shape, dtype=torch.float64)
    parameters = [x, *plain.parameters()]
    expected = torch.autograd.grad((reference * weights).sum(), parameters)
    found = holder(x)
    torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(torch.autograd.grad((found * weights).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_contiguous_input_takes_pytorch_s_own_way() -> None:
    holder = nn.Sequential(depthwise(2))
    plain = holder[0]
    use_subgrids(holder)
    x = image(8, 8).detach().contiguous()
    assert torch.equal(holder(x), plain(x))


@pytest.mark.parametrize(
    "conv",
    [
        depthwise(1),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),  # not depthwise
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6),  # loses the border
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, padding=(2, 1), dilation=(2, 1), groups=6),
    ],
)
def test_convolutions_that_do_not_fit_stay(conv: nn.Conv2d) -> None:
    holder = nn.Sequential(conv)
    use_subgrids(holder)
    assert holder[0] is conv


def test_mobilenet_s_last_blocks_get_them_and_keep_names_and_parameters() -> None:
    layers = get_backbone("mobilenet_v2").build().layers
    before = {name: parameter for layer in layers for name, parameter in layer.named_parameters()}
    for layer in layers:
        use_subgrids(layer)
    # Two blocks with 160 channels and the one with 320 read every second pixel.
    assert [i for i, layer in enumerate(layers) if any(isinstance(m, SubgridConv2d) for m in layer.modules())] == [
        14,
        15,
        16,
    ]
    after = {name: parameter for layer in layers for name, parameter in layer.named_parameters()}
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert list(layers[16].state_dict()) == list(get_backbone("mobilenet_v2").build().layers[16].state_dict())

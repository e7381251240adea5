"""Links, read-ins and read-outs: shapes of the paper's tables, what they compute, and sizes that no stride divides."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bmtas.counting import count_module
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.networks.states import Link, Resized, State, arc_operation, hidden_states


def kit(backbone: str) -> Kit:
    return Kit(get_backbone(backbone), {})


def test_states_of_vgg16_are_those_of_the_paper_up_to_stride_8() -> None:
    # Supplement, table 1: v_1 to v_10; our VGG-16 has a third layer in its last stage and keeps stride 8 there.
    table = [(64, 1)] * 2 + [(128, 2)] * 2 + [(256, 4)] * 3 + [(512, 8)] * 3
    found = [(state.channels, state.stride) for state in hidden_states(kit("vgg16"))]
    assert found[:10] == table
    assert found[10:] == [(512, 8)] * 3


def test_states_of_mobilenet_v2() -> None:
    # Sandler et al. 2018, table 2, at output stride 16; the stem first, the R-ASPP module is no state.
    blocks = [
        (32, 2),
        (16, 2),
        (24, 4),
        (24, 4),
        *[(32, 8)] * 3,
        *[(64, 16)] * 4,
        *[(96, 16)] * 3,
        *[(160, 16)] * 3,
        (320, 16),
    ]
    assert [(state.channels, state.stride) for state in hidden_states(kit("mobilenet_v2"))] == blocks


def test_link_is_convolution_norm_relu_and_pooling() -> None:
    torch.manual_seed(0)
    link = kit("vgg16").build("links.02.05").eval()
    assert count_module(link, [torch.zeros(1, 64, 16, 16)]).madds == 9 * 64 * 256 * 16 * 16
    assert sum(p.numel() for p in link.parameters()) == 9 * 64 * 256 + 2 * 256
    x = torch.randn(2, 64, 16, 16)
    state = link.state_dict()
    weight, scale = state["conv.0.weight"], state["conv.1.weight"] / math.sqrt(1 + 1e-5)
    normed = F.conv2d(x, weight, padding=1) * scale[:, None, None] + state["conv.1.bias"][:, None, None]
    expected = normed.relu().unfold(2, 4, 4).unfold(3, 4, 4).amax(dim=(4, 5))  # stride 1 to stride 4
    torch.testing.assert_close(link(x), expected, rtol=1e-4, atol=1e-4)


def test_separable_link_of_a_light_backbone() -> None:
    link = kit("mobilenet_v2").build("links.02.03")
    assert sum(p.numel() for p in link.parameters()) == (9 * 16 + 2 * 16) + (16 * 24 + 2 * 24)
    count = count_module(link.eval(), [torch.zeros(1, 16, 32, 32)])
    assert count.madds == (9 * 16 + 16 * 24) * 32 * 32  # before the pooling
    assert float(link(torch.full((1, 16, 8, 8), 1e4)).detach().max()) <= 6.0


def test_read_in_and_read_out() -> None:
    read_in, read_out = kit("vgg16").build("read_ins.05").eval(), kit("vgg16").build("read_outs.04").eval()
    assert count_module(read_in, [torch.zeros(1, 3, 64, 64)]).madds == 3 * 256 * 16 * 16
    assert count_module(read_out, [torch.zeros(1, 128, 32, 32)]).madds == 128 * 512 * 8 * 8
    # Bilinear resizing to a half, without moved corners, is the mean of 2x2.
    x, half = torch.randn(1, 3, 8, 8), Resized(3, 4, 2).eval()
    mean = F.avg_pool2d(x, 2)
    torch.testing.assert_close(half(x), half.norm(half.conv(mean)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Resized(3, 4, 1).eval()(x).shape, torch.Size([1, 4, 8, 8]))


@pytest.mark.parametrize("size", [(64, 64), (65, 70), (33, 47)])
def test_all_ways_to_a_state_have_the_shape_of_the_backbone(size: tuple[int, int]) -> None:
    backbone = get_backbone("mobilenet_v2")
    shapes, x = [], torch.zeros(1, 3, *size)
    with torch.no_grad():
        for module in list(backbone.operations().values())[:-1]:
            x = module.eval()(x)
            shapes.append(x.shape)
        one = Kit(backbone, {})
        for source, target in ((1, 4), (3, 5), (2, 8), (7, 12)):
            found = one.build(f"links.{source:02d}.{target:02d}").eval()(torch.zeros(shapes[source - 1]))
            assert found.shape == shapes[target - 1]
            assert one.build(f"read_ins.{target:02d}").eval()(torch.zeros(1, 3, *size)).shape == shapes[target - 1]
            assert one.build(f"read_outs.{source:02d}").eval()(torch.zeros(shapes[source - 1])).shape == shapes[-1]


def test_pooling_goes_by_the_strides() -> None:
    assert Link(State(4, 2), State(6, 8), separable=False)(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 3, 3)


def test_names_of_arcs() -> None:
    assert [arc_operation(*arc, 12) for arc in ((0, 1), (0, 3), (3, 11), (3, 13))] == [
        "stem",
        "read_ins.03",
        "links.03.11",
        "read_outs.03",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "links.02.01",
        "links.01.01",
        "links.1.2",
        "links.01.07",
        "links.01",
        "read_ins.01",
        "read_ins.x",
        "read_outs.01.02",
    ],
)
def test_names_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"tiny has the states 01 to 06"):
        kit("tiny").build(name)

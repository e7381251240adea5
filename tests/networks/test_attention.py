"""The attention of MTAN and the subspaces of sluice networks: places by hand, values by numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bmtas.errors import UsageError
from bmtas.networks import attention, subspaces
from bmtas.networks.attention import Mask, places_of
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.networks.subspaces import SubspaceMixture

Floats = npt.NDArray[np.float64]


def kit_of(backbone: str) -> Kit:
    return Kit(get_backbone(backbone), {})


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "vgg16", "tiny"])
def test_stages_hold_every_layer_once_but_the_aspp_module(backbone: str) -> None:
    found = get_backbone(backbone)
    names = ["stem", *found.layer_names()]
    held = [name for stage in found.stage_names() for name in stage]
    assert held == (names if backbone == "tiny" else names[:-1])
    assert [len(stage) for stage in found.stage_names()] == list(found.stages)


# (u_b, u_t, channels of u_b, of u_t, refined to, reduced since the place before), from the architectures' tables.
PLACES = {
    "mobilenet_v2": [
        ("layers.01", "layers.02", 24, 24, 32, 1),
        ("layers.04", "layers.05", 32, 32, 64, 2),
        ("layers.08", "layers.09", 64, 64, 96, 2),
        ("layers.11", "layers.12", 96, 96, 160, 1),
        ("layers.14", "layers.15", 160, 160, 320, 1),
        ("layers.15", "layers.16", 160, 320, 320, 1),
    ],
    "resnet50": [
        ("layers.01", "layers.02", 256, 256, 512, 1),
        ("layers.05", "layers.06", 512, 512, 1024, 2),
        ("layers.11", "layers.12", 1024, 1024, 2048, 2),
        ("layers.14", "layers.15", 2048, 2048, 2048, 1),
    ],
    "vgg16": [
        ("layers.04", "layers.05", 256, 256, 512, 1),
        ("layers.07", "layers.08", 512, 512, 512, 2),
        ("layers.10", "layers.11", 512, 512, 512, 1),
    ],
    "tiny": [("layers.01", "layers.02", 12, 12, 4, 1), ("layers.04", "layers.05", 4, 4, 4, 1)],
}


@pytest.mark.parametrize("backbone", PLACES)
def test_places_of_attention(backbone: str) -> None:
    found = places_of(kit_of(backbone))
    assert [tuple(vars(place).values()) for place in found] == PLACES[backbone]


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def test_mask_by_numpy() -> None:
    torch.manual_seed(0)
    mask = Mask(3 + 2, 2, 2, nn.ReLU).double().eval()
    for norm in (mask.squeeze[1], mask.spread[1]):
        assert isinstance(norm, nn.BatchNorm2d)
        norm.eps = 0.0  # the means are 0 and the variances 1: nothing is changed
    before, last, refined = torch.randn(1, 3, 4, 4), torch.randn(1, 2, 4, 4), torch.randn(1, 2, 7, 8)
    found = mask(before.double(), last.double(), refined.double())[0].detach().numpy()
    first, second = (
        mask.get_parameter(f"{part}.0.weight").detach().numpy()[:, :, 0, 0] for part in ("squeeze", "spread")
    )
    padded = np.pad(refined[0].double().numpy(), ((0, 0), (0, 1), (0, 0)), constant_values=-np.inf)
    pooled = padded.reshape(2, 4, 2, 4, 2).max(axis=(2, 4))  # the last row is half a window
    read = np.concatenate([before[0].double().numpy(), pooled])
    hidden = np.maximum(np.einsum("oc,chw->ohw", first, read), 0)
    expected = sigmoid(np.einsum("oc,chw->ohw", second, hidden)) * last[0].double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_mask_leaves_out_the_row_that_an_encoder_drops() -> None:
    torch.manual_seed(0)
    mask = Mask(3 + 2, 2, 2, nn.ReLU).eval()
    before, last, refined = torch.randn(1, 3, 4, 4), torch.randn(1, 2, 4, 4), torch.randn(1, 2, 9, 8)
    torch.testing.assert_close(mask(before, last, refined), mask(before, last, refined[:, :, :8]))


def test_mobilenets_refinements_are_separable_and_end_at_6() -> None:
    light = attention.build("refines.layers.02", kit_of("mobilenet_v2"))
    shapes = [tuple(part.weight.shape) for part in light.modules() if isinstance(part, nn.Conv2d)]
    assert shapes == [(24, 1, 3, 3), (32, 24, 1, 1)]
    assert float(light(100 * torch.randn(2, 24, 8, 8)).detach().max()) <= 6
    full = attention.build("refines.layers.02", kit_of("tiny"))
    assert [tuple(p.weight.shape) for p in full.modules() if isinstance(p, nn.Conv2d)] == [(4, 12, 3, 3)]
    assert not any(isinstance(part, nn.ReLU6) for part in full.modules())


@pytest.mark.parametrize("name", ["masks.layers.01", "refines", "masks", "masks.stem"])
def test_attention_is_where_stages_end(name: str) -> None:
    with pytest.raises(UsageError, match=r"layers\.02, layers\.05"):
        attention.build(name, kit_of("tiny"))


def test_mixture_by_numpy() -> None:
    rng = np.random.default_rng(0)
    values, alphas = rng.normal(size=(3, 2, 6, 5, 4)), rng.normal(size=(2, 6))
    mixture = SubspaceMixture(3).double()
    with torch.no_grad():
        mixture.alphas.copy_(torch.from_numpy(alphas))
    found = mixture(*(torch.from_numpy(x) for x in values)).detach().numpy()
    halves = values.reshape(3, 2, 2, 3, 5, 4).transpose(0, 2, 1, 3, 4, 5).reshape(6, 2, 3, 5, 4)
    expected = np.concatenate(list(np.einsum("rk,knchw->rnchw", alphas, halves)), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_mixture_begins_as_the_task_itself() -> None:
    mixture, x, y = SubspaceMixture(2), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert torch.equal(mixture(x, y), x)
    mixture.begin(0.7, 0.1)
    low, high = (v.chunk(2, dim=1) for v in (x, y))
    expected = torch.cat([0.7 * low[0] + 0.1 * low[1], 0.1 * low[0] + 0.7 * low[1]], dim=1) + 0.1 * (
        high[0] + high[1]
    ).repeat(1, 2, 1, 1)
    torch.testing.assert_close(mixture(x, y), expected)


@pytest.mark.parametrize(
    "name", ["subspaces.2", "subspaces.layers.99.2", "subspaces.layers.01", "subspaces.layers.01.0"]
)
def test_unknown_mixtures_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"called subspaces\.LAYER\.INPUTS"):
        subspaces.build(name, kit_of("tiny"))

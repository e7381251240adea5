"""Any convolutional model of torchvision as a backbone: the model's own features, in layers that searches can take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmtas.architecture import BranchedArchitecture
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.mobilenet_v2 import RASPP
from bmtas.networks.network import build_network
from bmtas.networks.resnet50 import ASPP
from bmtas.networks.torchvision_backbones import torchvision_backbone, torchvision_names
from bmtas.networks.weights import load_weights
from bmtas.profile import build_table, count_network
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision
from costs.units import Resource

MODELS = import_torchvision().models
TASKS = (Task(name="depth", kind=TaskKind.DEPTH), Task(name="normals", kind=TaskKind.NORMALS))


def resnet_steps(model: Any) -> list[Callable[[Tensor], Tensor]]:
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    return [stem, *model.layer1, *model.layer2, *model.layer3, *model.layer4]


def mnasnet_steps(model: Any) -> list[Callable[[Tensor], Tensor]]:
    own = list(model.layers)
    # Three loose convolutions with what follows them, the blocks of six stages, and a last convolution.
    blocks = [block for stage in own[8:14] for block in stage]
    return [*(nn.Sequential(*own[a:b]) for a, b in ((0, 3), (3, 6), (6, 8))), *blocks, nn.Sequential(*own[14:])]


@pytest.mark.parametrize(("name", "steps"), [("resnet18", resnet_steps), ("mnasnet0_5", mnasnet_steps)])
def test_layers_compute_what_the_blocks_of_the_model_compute(
    name: str, steps: Callable[[Any], list[Callable[[Tensor], Tensor]]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = MODELS.get_model(name, weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone = get_backbone(name)
    operations = backbone.operations()
    weights = load_weights(str(tmp_path / "weights.pt"), backbone)
    assert weights is not None
    weights.load_into(operations)
    x = y = torch.randn(1, 3, 64, 96)
    assert len(steps(model)) == len(operations) - 1
    with torch.no_grad():
        for own, (place, operation) in zip(steps(model), operations.items(), strict=False):
            x, y = own(x), operation.eval()(y)
            torch.testing.assert_close(y, x, msg=lambda text, place=place: f"{place}: {text}")  # type: ignore[misc]
    # The context module alone has no pretrained weights.
    assert set(weights.by_operation) == set(operations) - {backbone.layer_names()[-1]}


def test_what_the_house_knows_of_resnet18() -> None:
    backbone = get_backbone("resnet18")
    assert (backbone.layers, backbone.tap, backbone.tap_channels, backbone.stride) == (9, 1, 64, 32)
    assert backbone.stages == (3, 2, 2, 2)  # the stem has the channels and resolution of the first stage
    assert not backbone.separable
    assert backbone.weights_name == "ResNet18_Weights.IMAGENET1K_V1"
    layers = list(backbone.operations().values())[1:]
    assert isinstance(layers[-1], ASPP)
    norms = [backbone.last_norm(layer) for layer in layers]
    # Not that of the 1x1 convolution beside a block, which comes later.
    assert norms[:3] == ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2"]
    assert norms[-1] == "project.1"


def test_what_the_house_knows_of_mnasnet() -> None:
    backbone = get_backbone("mnasnet0_5")
    # 3 loose convolutions, the first of them the stem, blocks of 3, 3, 3, 2, 4 and 1, a last convolution, and the context.
    assert backbone.layers == 2 + 16 + 1 + 1
    assert (backbone.tap, backbone.tap_channels, backbone.separable) == (4, 16, True)
    assert isinstance(list(backbone.operations().values())[-1], RASPP)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", "efficientnet_b0", pytest.param("vgg16_bn", marks=pytest.mark.slow), "regnet_y_400mf"],
)
def test_stages_have_one_shape_each(name: str) -> None:
    backbone = torchvision_backbone(name)
    assert sum(backbone.stages) == backbone.layers  # stem and layers, but for the context module
    x, shapes = torch.zeros(1, 3, 128, 128, device="meta"), []
    for operation in backbone.operations().values():
        x = operation.eval().to("meta")(x)
        shapes.append(tuple(x.shape))
    place = 0
    for count in backbone.stages:
        assert len(set(shapes[place : place + count])) == 1
        place += count
    assert shapes[backbone.tap + 1][1:3] == (backbone.tap_channels, 32)
    assert shapes[-1][1:3] == (backbone.channels, 128 // backbone.stride)


def test_branched_networks_cost_what_the_table_says() -> None:
    backbone = get_backbone("resnet18")
    together, apart = (("depth", "normals"),), (("depth",), ("normals",))
    tree = BranchedArchitecture(
        backbone="resnet18", tasks=("depth", "normals"), groupings=(together,) * 5 + (apart,) * 4
    )
    counted = count_network(build_network(tree, TASKS), (64, 64))
    table = build_table(backbone, TASKS, (64, 64))
    assert table.architecture_cost(tree.task_indices, Resource.MADDS) == counted.madds
    assert table.architecture_cost(tree.task_indices, Resource.PARAMS) == counted.params


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_b_16", "cannot be traced"),
        ("swin_t", "in 1 places"),
        ("vgg16_bn_", "unknown backbone"),
        ("vgg11", "have no batch normalisation"),
        ("shufflenet_v2_x0_5", "at stride 4"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        get_backbone(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapters_by_hand_come_first() -> None:
    assert get_backbone("mobilenet_v2").stride == 16
    assert torchvision_backbone("mobilenet_v2").stride == 32
    assert {"resnet18", "mnasnet0_5", "densenet121"} <= set(torchvision_names())

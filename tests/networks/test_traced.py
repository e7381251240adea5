"""Traced operations: networks put together from them compute what the model computes, whatever its blocks are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, Parts, get_backbone
from bmtas.networks.operations import Kit
from bmtas.networks.torchvision_backbones import torchvision_backbone
from bmtas.networks.traced import Skip, keeps_shape, skip_name
from bmtas.networks.tracing import IMAGE_PLACE, Kind, Trace, trace_of
from bmtas.networks.weights import load_weights
from bmtas.torchvision_remedy import import_torchvision

MODELS = import_torchvision().models
FEATURES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "mobilenet_v2": lambda m, x: m.features(x),
    "resnet18": lambda m, x: m.layer4(m.layer3(m.layer2(m.layer1(m.maxpool(m.relu(m.bn1(m.conv1(x)))))))),
    "mnasnet0_5": lambda m, x: m.layers(x),
    "densenet121": lambda m, x: F.relu(m.features(x)),
    "regnet_y_400mf": lambda m, x: m.trunk_output(m.stem(x)),
    "efficientnet_b0": lambda m, x: m.features(x),
    "vgg16_bn": lambda m, x: m.features(x),
}
"""What each model computes before its global pooling, by its own modules."""


def settled(name: str) -> nn.Module:
    """Return a model whose normalisations are no identities."""
    torch.manual_seed(0)
    model: nn.Module = MODELS.get_model(name, weights=None)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def run(trace: Trace, kit: Kit, image: Tensor, last: str) -> tuple[Tensor, dict[int, Tensor]]:
    """Apply all operations but those of the layer `last`; return what that one reads, and all values."""
    values = {IMAGE_PLACE: image}
    read = None
    for operation in trace.operations:
        if operation.owner == last:
            read = operation.inputs[0] if read is None else read
            continue
        module = kit.build(operation.name).eval()
        values[operation.place] = module(*(values[place] for place in operation.inputs))
    assert read is not None
    return values[read], values


_LARGE = ("densenet121", "vgg16_bn")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _LARGE else name for name in FEATURES]
)
def test_traced_operations_compute_what_the_model_computes(name: str, tmp_path: Path) -> None:
    model, backbone = settled(name), torchvision_backbone(name)
    encoder = {
        k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")
    }  # of VGG: half a gigabyte
    torch.save(encoder, tmp_path / "weights.pt")
    kit = Kit(backbone, {}, load_weights(str(tmp_path / "weights.pt"), backbone))
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FEATURES[name](model, image)
        found, _ = run(trace_of(backbone), kit, image, backbone.layer_names()[-1])
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
    assert scale > 1e-3


class Shuffled(nn.Module):
    """The end of a ShuffleNet, which splits and shuffles channels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.stages = nn.Sequential(model.stage3, model.stage4, model.conv5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.stages(x)
        return result


def test_split_and_shuffled_channels() -> None:
    model: Any = settled("shufflenet_v2_x1_0")
    parts = Parts(nn.Sequential(model.conv1, model.maxpool), (model.stage2, Shuffled(model)), {})
    backbone = replace(get_backbone("tiny"), name="shuffled", build=lambda: parts, layers=2, tap=0)
    trace, image = Trace(backbone), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    operations = backbone.operations()
    values = {IMAGE_PLACE: image}
    with torch.no_grad():
        for operation in trace.operations:
            if operation.kind is Kind.GLUE:
                module = trace.glue(operation.place, operations).eval()
            else:
                module = operations[operation.owner].get_submodule(operation.path)
            values[operation.place] = module(*(values[place] for place in operation.inputs))
        expected = model.conv5(model.stage4(model.stage3(model.stage2(model.maxpool(model.conv1(image))))))
    torch.testing.assert_close(values[trace.features], expected)
    assert len(trace.convs) == 56  # 1, then 5 in the first and 3 in each other unit of stages of 4, 8 and 4, then 1


def test_no_operation_changes_what_another_reads() -> None:
    backbone = torchvision_backbone("resnet18")
    trace, kit = trace_of(backbone), Kit(backbone, {})
    image = torch.randn(1, 3, 64, 64)
    values = {IMAGE_PLACE: image}
    with torch.no_grad():
        for operation in trace.operations:
            inputs = [values[place] for place in operation.inputs]
            before = [x.clone() for x in inputs]
            values[operation.place] = kit.build(operation.name).eval()(*inputs)
            assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True)), operation.name


def test_the_operations_of_tiny_by_hand() -> None:
    trace = trace_of(get_backbone("tiny"))
    assert [o.name for o in trace.operations[:8]] == [
        "convs.000",
        "norms.001",
        "convs.002",
        "norms.003",
        "glue.004",
        "convs.005",
        "norms.006",
        "glue.007",
    ]
    # The residual sum reads the stem's normalisation and that of the block.
    assert sorted(trace.operations[7].inputs) == [1, 6]
    assert trace.operations[6].behind == 5
    assert trace.above[7] == {0, 2, 5}
    assert trace.depths == tuple(range(1, 14))
    assert trace.features == trace.tap == len(trace.operations) - 1


def test_depths_of_residual_branches_by_hand() -> None:
    # Stem 1; two blocks of 2; then three times a block of 2 with a 1x1 convolution beside it, and one of 2.
    encoder = [1, 2, 3, 4, 5, 6, 7, 6, 8, 9, 10, 11, 10, 12, 13, 14, 15, 14, 16, 17]
    context = [18] * 5 + [19]
    assert trace_of(torchvision_backbone("resnet18")).depths == tuple(encoder + context)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (3, 2, 1, 1), (3, 1, 2, 2), (4, 4, 0, 1), (3, 1, 0, 1), (7, 2, 3, 1), (5, 2, 1, 1), (3, 2, 4, 1)],
)
@pytest.mark.parametrize("side", [16, 19])
def test_skips_have_the_shape_of_what_they_stand_for(
    kernel: int, stride: int, padding: int, dilation: int, side: int
) -> None:
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation)
    x = torch.randn(2, 4, side, side + 3)
    assert Skip(conv).eval()(x).shape == conv(x).shape


def test_a_skip_is_a_strided_convolution_of_single_pixels() -> None:
    skip = Skip(nn.Conv2d(5, 6, 3, 2, 1)).eval()
    x = torch.randn(2, 5, 9, 12)
    with torch.no_grad():
        expected = F.conv2d(x.double(), skip.conv.weight.double(), stride=2) / (1 + skip.norm.eps) ** 0.5
    torch.testing.assert_close(skip(x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("conv", "same"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), True),
        (nn.Conv2d(4, 4, 3, padding="same"), True),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), True),
        (nn.Conv2d(4, 4, 3), False),
        (nn.Conv2d(4, 4, 1, stride=2), False),
        (nn.Conv2d(4, 5, 1), False),
    ],
)
def test_what_can_be_skipped_by_doing_nothing(conv: nn.Conv2d, same: bool) -> None:
    assert keeps_shape(conv) is same


def test_pretrained_and_random_operations(tmp_path: Path) -> None:
    backbone, model = torchvision_backbone("resnet18"), settled("resnet18")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    kit = Kit(backbone, {}, load_weights(str(tmp_path / "weights.pt"), backbone))
    first: Any = kit.build("convs.000")
    assert torch.equal(first.weight, model.conv1.weight)  # type: ignore[union-attr]
    norm: Any = kit.build("norms.001")
    assert torch.equal(norm.running_mean, model.bn1.running_mean)  # type: ignore[union-attr]
    alone: Any = kit.random().build("norms.001")
    assert float(alone.running_mean.abs().max()) == 0.0
    # The context module has no pretrained weights; of its copies each is random.
    last = f"convs.{trace_of(backbone).convs[-1]:03d}"
    one: Any = kit.build(last)
    other: Any = kit.build(last)
    assert not torch.equal(one.weight, other.weight)


def test_unknown_operations_are_refused() -> None:
    kit = Kit(get_backbone("tiny"), {})
    for name in ("convs.001", "norms.000", "glue.999", "skips.001"):
        with pytest.raises(UsageError, match=r"convs\.000 to glue\.036"):
            kit.build(name)
    assert skip_name(trace_of(get_backbone("tiny")).operations[0]) == "skips.000"


class Mixed(nn.Module):
    """Joins the image itself with features."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean(dim=(2, 3), keepdim=True)


def test_features_joined_with_the_image_are_refused() -> None:
    tiny: Backbone = get_backbone("tiny")
    parts = tiny.build()
    odd = replace(tiny, name="odd", build=lambda: Parts(nn.Sequential(Mixed(), parts.stem), parts.layers, {}))
    with pytest.raises(UsageError, match="odd joins the image itself"):
        Trace(odd)

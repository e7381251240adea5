"""VGG-16: where it is torchvision's network, what it costs, and the LargeFOV module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bmtas.counting import count_module
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.heads import build_head
from bmtas.networks.vgg16 import LargeFOV
from bmtas.networks.weights import load_weights
from bmtas.profile import build_table
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision
from costs.units import Resource

VGG16 = get_backbone("vgg16")


def torchvision_features() -> nn.Sequential:
    """Return the convolutions of torchvision's model in evaluation mode, their values random, the statistics too."""
    torch.manual_seed(0)
    vgg = import_torchvision().models.vgg  # without the fully connected layers, which take seconds to make
    features: nn.Sequential = vgg.make_layers(vgg.cfgs["D"], batch_norm=True).eval()
    for norm in features.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = 0.1 * torch.randn(norm.num_features)
            norm.running_var = 0.5 + torch.rand(norm.num_features)
    return features


def test_shapes_and_stages() -> None:
    x = torch.zeros(1, 3, 64, 96)
    shapes = []
    with torch.no_grad():
        for operation in VGG16.operations().values():
            x = operation.eval()(x)
            shapes.append(tuple(x.shape[1:]))
    # Stem and layers by stage: 64 and 128 channels twice, 256, 512 and 512 three times; the last stage keeps the stride of 8.
    assert shapes[:13] == [
        *[(64, 64, 96)] * 2,
        *[(128, 32, 48)] * 2,
        *[(256, 16, 24)] * 3,
        *[(512, 8, 12)] * 3,
        *[(512, 8, 12)] * 3,
    ]
    assert shapes[13] == (1024, 8, 12) == (VGG16.channels, 64 // VGG16.stride, 96 // VGG16.stride)
    assert len(shapes) == VGG16.layers + 1
    assert sum(VGG16.stages) == 13
    assert shapes[VGG16.tap + 1] == (VGG16.tap_channels, 16, 24)


def test_equals_torchvision_up_to_the_pooling_that_keeps_the_resolution(tmp_path: Path) -> None:
    features = torchvision_features()
    # The published file is from before PyTorch counted batches.
    state = {f"features.{k}": v for k, v in features.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "vgg16.pth")
    weights = load_weights(str(tmp_path / "vgg16.pth"), VGG16)
    assert weights is not None
    operations = VGG16.operations()
    weights.load_into(operations)
    assert [name for name in operations if not weights.covers(name)] == ["layers.12"]
    x = theirs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = [operation.eval() for operation in operations.values()]
    with torch.no_grad():
        for part in parts[:10]:
            x = part(x)
        for part in features[:33]:  # up to conv4_3, before the fourth pooling
            theirs = part(theirs)
        torch.testing.assert_close(x, theirs, rtol=1e-5, atol=1e-6)
        # The fifth stage reads every second pixel of a grid twice as fine: the same convolutions, dilated.
        x = F.max_pool2d(x, 3, stride=1, padding=1)
        pooled = x[..., ::2, ::2]
        for place, part in enumerate(parts[10:13]):
            x = part.get_submodule("relu")(part.get_submodule("norm")(part.get_submodule("conv")(x)))
            for theirs_part in features[34 + 3 * place : 37 + 3 * place]:
                pooled = theirs_part(pooled)
    torch.testing.assert_close(x[..., ::2, ::2], pooled, rtol=1e-4, atol=1e-5)


def test_weights_are_published_under_that_name() -> None:
    enum, _, member = str(VGG16.weights_name).partition(".")
    entry = getattr(getattr(import_torchvision().models, enum), member)
    assert entry.url.endswith("vgg16_bn-6c64b313.pth")


def test_count_is_torchvision_s_up_to_the_fourth_pooling() -> None:
    image = torch.zeros(1, 3, 512, 512)
    with torch.no_grad():
        operations = list(VGG16.operations().values())
        count = count_module(nn.Sequential(*operations[:10]).eval(), [image])
        theirs = count_module(torchvision_features()[:33], [image])  # fvcore, convolutions alone
    assert count.madds == theirs.madds
    assert count.params == theirs.params
    # By hand: 9 C_in C_out per place.
    channels = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 2), (128, 256, 4), (256, 256, 4), (256, 256, 4)]
    channels += [(256, 512, 8), (512, 512, 8), (512, 512, 8)]
    assert count.madds == sum(9 * i * o * (512 // s) ** 2 for i, o, s in channels)


def test_parameters_are_those_of_the_published_network() -> None:
    table = build_table(VGG16, (Task(name="depth", kind=TaskKind.DEPTH),), (64, 64))
    names = ["stem", *(f"layers.{i:02d}" for i in range(12))]
    # 138,365,992 parameters (torchvision), of which 123,642,856 are those of the three fully connected layers.
    connected = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert sum(table.operation_cost(name, Resource.PARAMS) for name in names) == 138365992 - connected
    wide = 9 * 512 * 1024 + 1024 * 1024 + 2 * 2 * 1024
    assert table.operation_cost("layers.12", Resource.PARAMS) == wide


def test_largest_field_of_view_by_hand() -> None:
    torch.manual_seed(0)
    module = LargeFOV(3, 4).eval()
    x, weights = torch.rand(1, 3, 30, 30), dict(module.named_parameters())
    with torch.no_grad():
        out = module(x)
        # Average of maxima, at the border over what lies within the image.
        largest = F.max_pool2d(x, 3, 1, 1)
        inside = F.conv2d(torch.ones(1, 1, 30, 30), torch.ones(1, 1, 3, 3), padding=1)
        mean = F.conv2d(largest, torch.ones(3, 1, 3, 3), padding=1, groups=3) / inside
        wide = torch.relu(F.conv2d(mean, weights["wide.0.weight"], padding=12, dilation=12) / (1 + 1e-5) ** 0.5)
        expected = torch.relu(F.conv2d(wide, weights["project.0.weight"]) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["layers.00", "layers.05", "layers.09", "layers.12"])
def test_the_last_norm_comes_after_the_last_convolution(name: str) -> None:
    layer = VGG16.operations()[name]
    with_parameters = [n for n, part in layer.named_modules() if isinstance(part, (nn.Conv2d, nn.BatchNorm2d))]
    assert with_parameters[-1] == VGG16.last_norm(layer)


def test_heads_fit() -> None:
    head = build_head(Task(name="depth", kind=TaskKind.DEPTH), VGG16).eval()
    with torch.no_grad():
        assert head(torch.zeros(1, 1024, 8, 12), torch.zeros(1, 256, 16, 24)).shape == (1, 1, 16, 24)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(UsageError, match="output stride 8 and needs at least 16x16"):
        build_table(VGG16, (Task(name="depth", kind=TaskKind.DEPTH),), (8, 64))

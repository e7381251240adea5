"""Backbones: what is cut out of torchvision's networks computes what torchvision computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, PooledContext, fresh_copy, get_backbone, known_backbones
from bmtas.networks.heads import build_head
from bmtas.networks.weights import Weights, load_weights
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision

BACKBONES = ["mobilenet_v2", "resnet50"]


def torchvision_model(name: str, **options: object) -> nn.Module:
    """Return torchvision's model in evaluation mode, its values random, its statistics too."""
    torch.manual_seed(0)
    model: nn.Module = getattr(import_torchvision().models, name)(weights=None, **options).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = 0.1 * torch.randn(norm.num_features)
            norm.running_var = 0.5 + torch.rand(norm.num_features)
            nn.init.normal_(norm.weight, mean=1.0, std=0.1)
            nn.init.normal_(norm.bias, std=0.1)
    return model


def image(size: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def loaded(backbone: Backbone, weights: Weights) -> list[nn.Module]:
    operations = backbone.operations()
    weights.load_into(operations)
    return [operation.eval() for operation in operations.values()]


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return get_backbone(request.param)


@pytest.mark.parametrize(
    ("name", "layers", "tap", "channels"), [("mobilenet_v2", 18, 24, 128), ("resnet50", 17, 256, 256)]
)
def test_layers_strides_and_channels(name: str, layers: int, tap: int, channels: int) -> None:
    backbone = get_backbone(name)
    assert backbone.layers == layers
    assert backbone.layer_names() == tuple(f"layers.{i:02d}" for i in range(layers))
    operations = backbone.operations()
    assert list(operations) == ["stem", *backbone.layer_names()]
    x, shapes = image((64, 96)), []
    with torch.no_grad():
        for operation in operations.values():
            x = operation.eval()(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes[-1] == (channels, 4, 6) == (backbone.channels, 64 // backbone.stride, 96 // backbone.stride)
    assert shapes[backbone.tap + 1] == (tap, 16, 24)
    assert backbone.tap_channels == tap


def test_operations_are_fresh_each_time(backbone: Backbone) -> None:
    first, second = (dict(backbone.operations()["stem"].named_parameters()) for _ in range(2))
    assert all(first[name] is not second[name] for name in first)


def test_the_last_norm_is_the_last_thing_with_parameters(backbone: Backbone) -> None:
    for name, layer in list(backbone.operations().items())[1:]:
        norm = layer.get_submodule(backbone.last_norm(layer))
        assert isinstance(norm, nn.BatchNorm2d)
        called: list[nn.Module] = []
        for part in layer.modules():
            if isinstance(part, (nn.BatchNorm2d, nn.Conv2d)) and "downsample" not in _name(layer, part):
                part.register_forward_hook(lambda module, *_, to=called: to.append(module))
        channels = next(p for p in layer.modules() if isinstance(p, nn.Conv2d)).in_channels
        with torch.no_grad():
            layer.eval()(torch.zeros(1, channels, 8, 8))
        assert called[-1] is norm, name


def _name(layer: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in layer.named_modules() if module is part)


def test_mobilenet_equals_torchvision_up_to_the_stride_it_gives_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = torchvision_model("mobilenet_v2")
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(model.state_dict(), path)
    backbone = get_backbone("mobilenet_v2")
    weights = load_weights(str(path), backbone)
    assert weights is not None
    operations = loaded(backbone, weights)
    ours = theirs = image((64, 96))
    with torch.no_grad():
        for index in range(14):
            ours, theirs = operations[index](ours), model.features[index](theirs)
            assert torch.equal(ours, theirs), f"torchvision's features[{index}]"
        # From there on the grid is twice as fine, and every second pixel is what it was.
        for index in range(14, 18):
            ours, theirs = operations[index](ours), model.features[index](theirs)
            assert ours.shape[-2:] == (4, 6)
            torch.testing.assert_close(ours[..., ::2, ::2], theirs, rtol=1e-4, atol=1e-5)


def test_resnet_equals_torchvision_s_dilated_body(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = torchvision_model("resnet50", replace_stride_with_dilation=[False, False, True])
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(model.state_dict(), path)
    backbone = get_backbone("resnet50")
    weights = load_weights(str(path), backbone)
    assert weights is not None
    ours = theirs = image((64, 64))
    with torch.no_grad():
        for operation in loaded(backbone, weights)[:-1]:
            ours = operation(ours)
        for name in "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4".split():
            theirs = getattr(model, name)(theirs)
    assert ours.shape == (1, 2048, 4, 4)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_pooled_context_is_the_same_everywhere() -> None:
    torch.manual_seed(0)
    pooled = PooledContext(3, 5, nn.ReLU).eval()
    x = torch.randn(2, 3, 4, 6)
    with torch.no_grad():
        out, weight = pooled(x), pooled.conv[0].weight[:, :, 0, 0]
    expected = torch.relu(x.mean(dim=(2, 3)) @ weight.T / (1 + 1e-5) ** 0.5)
    assert out.shape == (2, 5, 4, 6)
    torch.testing.assert_close(out, expected[:, :, None, None].expand(2, 5, 4, 6))


def test_a_copy_is_new_unless_it_is_pretrained() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 2))
    with torch.no_grad():
        norm.weight.fill_(3)
        norm.running_mean = torch.full((4,), 7.0)
    same, fresh = fresh_copy(module, pretrained=True), fresh_copy(module, pretrained=False)
    for name, value in module.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
        assert same.state_dict()[name] is not value
    state = fresh.state_dict()
    assert not torch.equal(state["0.weight"], module[0].weight)
    assert torch.equal(state["1.weight"], torch.ones(4))
    assert torch.equal(state["1.running_mean"], torch.zeros(4))
    assert torch.equal(state["0.bias"], torch.zeros(4))
    assert torch.equal(norm.weight.detach(), torch.full((4,), 3.0))  # the original is untouched


def test_convolutions_start_with_the_spread_of_he_et_al() -> None:
    torch.manual_seed(0)
    weight = fresh_copy(nn.Conv2d(64, 128, 3), pretrained=False).weight.detach()
    # fan out: 128 channels of 9 positions, gain of ReLU sqrt(2)
    assert float(weight.std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


HEADS = [
    (Task(name="t", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c", "d", "e")), (2, 5, 16, 24)),
    (Task(name="t", kind=TaskKind.NORMALS), (2, 3, 16, 24)),
    (Task(name="t", kind=TaskKind.EDGE), (2, 1, 16, 24)),
    (Task(name="t", kind=TaskKind.CLASSIFICATION, classes=("a", "b", "c", "d")), (2, 4)),
]


@pytest.mark.parametrize(("task", "shape"), HEADS, ids=[task.kind.value for task, _ in HEADS])
def test_predictions_of_heads(backbone: Backbone, task: Task, shape: tuple[int, ...]) -> None:
    head: Callable[[Tensor, Tensor], Tensor] = build_head(task, backbone).eval()
    with torch.no_grad():
        out = head(torch.zeros(2, backbone.channels, 4, 6), torch.zeros(2, backbone.tap_channels, 16, 24))
    assert tuple(out.shape) == shape


def test_an_unknown_backbone_is_answered_with_the_nearest() -> None:
    assert sorted(known_backbones()) == ["mobilenet_v2", "resnet50", "tiny", "vgg16"]
    with pytest.raises(UsageError, match=r"did you mean 'resnet50'\? known: mobilenet_v2, resnet50"):
        get_backbone("resnet-50")

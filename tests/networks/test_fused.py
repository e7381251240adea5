"""Candidates in one pass: the same as one after the other, for every layer of every backbone, and reasons where it cannot be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bmtas.networks.backbone import Backbone, channels_last, fresh_copy, get_backbone, known_backbones
from bmtas.networks.blocks import mixture, total, widened
from bmtas.networks.candidates import FUSED, SEQUENTIAL, Candidates
from bmtas.networks.subgrids import use_subgrids

COPIES = 2
WEIGHTS = (0.2, 0.8)
LAYERS = [
    pytest.param(name, index, marks=pytest.mark.slow if (name, index) == ("resnet50", 16) else [])
    for name, backbone in known_backbones().items()
    for index in range(backbone.layers)
]
"""The context module of ResNet-50 is by far the dearest."""


def randomise(module: nn.Module, seed: int) -> None:
    """Give normalisations scales, shifts and statistics that are not those they begin with."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.weight, norm.bias, norm.running_mean):
                if value is not None:
                    value.data.normal_(0.5, 0.5, generator=generator)
            assert norm.running_var is not None
            norm.running_var.uniform_(0.5, 2.0, generator=generator)


def candidates_of(prototype: nn.Module, copies: int = COPIES) -> Candidates:
    torch.manual_seed(0)
    candidates = Candidates(fresh_copy(prototype, pretrained=False) for _ in range(copies)).double()
    randomise(candidates, 1)
    return candidates


def layer_of(backbone: Backbone, index: int, copies: int = COPIES) -> Candidates:
    """The candidates of one layer as a supergraph has them: no scale and shift at the end, subgrids where they fit."""
    prototype = backbone.build().layers[index]
    parent, _, child = backbone.last_norm(prototype).rpartition(".")
    place = prototype.get_submodule(parent)
    setattr(place, child, nn.BatchNorm2d(getattr(place, child).num_features, affine=False))
    use_subgrids(prototype)
    return candidates_of(prototype, copies)


def inputs_of(layer: nn.Module) -> int:
    return next(m.in_channels for m in layer.modules() if isinstance(m, nn.Conv2d))


def random_input(channels: int, size: int = 4) -> Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def loop(candidates: Candidates, x: Tensor, weights: Tensor) -> Tensor:
    return torch.stack([w * candidate(x) for w, candidate in zip(weights, candidates, strict=True)]).sum(dim=0)


def fused(candidates: Candidates, x: Tensor, weights: Tensor) -> Tensor:
    candidates.form = FUSED
    out: Tensor = candidates(x, weights, None if weights.requires_grad else weights.tolist())
    return out


def everything(
    run: Callable[[Candidates, Tensor, Tensor], Tensor], candidates: Candidates, x: Tensor, *, learned_mix: bool
) -> dict[str, Tensor]:
    """Output, gradients of input, weights and mix, and statistics afterwards, of a copy of `candidates`."""
    twin, x = copy.deepcopy(candidates), x.clone().requires_grad_()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64, requires_grad=learned_mix)
    out = run(twin, x, weights)
    out.backward(torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    assert x.grad is not None
    found = {"output": out.detach(), "input": x.grad}
    if weights.grad is not None:
        found["mix"] = weights.grad
    found |= {f"gradient of {name}": p.grad for name, p in twin.named_parameters() if p.grad is not None}
    return found | {f"statistic {name}": value for name, value in twin.named_buffers()}


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        scale = float(value.abs().max()) if value.dtype.is_floating_point else 1.0
        atol = 1e-10 * scale + 1e-13  # the gradient of a bias before a normalisation is 0 but for rounding
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("name", "index"), LAYERS)
def test_a_layer_in_one_pass_is_the_loop_over_its_candidates(name: str, index: int) -> None:
    candidates = layer_of(get_backbone(name), index)
    assert candidates.why_not_fused() is None
    x = random_input(inputs_of(candidates))
    check_same(everything(fused, candidates, x, learned_mix=True), everything(loop, candidates, x, learned_mix=True))
    channels_last(candidates)
    x = x.to(memory_format=torch.channels_last)
    check_same(everything(fused, candidates, x, learned_mix=False), everything(loop, candidates, x, learned_mix=False))
    assert fused(candidates, x, torch.ones(COPIES).double()).is_contiguous(memory_format=torch.channels_last)


# A block without expansion, one with a residual sum, R-ASPP; a block with a downsampling branch, one without, ASPP.
KINDS = [
    ("mobilenet_v2", 0),
    ("mobilenet_v2", 2),
    ("mobilenet_v2", 17),
    ("resnet50", 0),
    ("resnet50", 1),
    pytest.param("resnet50", 16, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "index"), KINDS)
@pytest.mark.parametrize("mode", ["evaluation", "batch statistics"])
def test_modes_of_the_normalisation_are_followed(name: str, index: int, mode: str) -> None:
    candidates = layer_of(get_backbone(name), index)
    candidates.train(mode != "evaluation")
    before = copy.deepcopy(dict(candidates.named_buffers()))
    if mode == "batch statistics":
        for norm in candidates.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.track_running_stats = False
    x = random_input(inputs_of(candidates))
    found = everything(fused, candidates, x, learned_mix=True)
    check_same(found, everything(loop, candidates, x, learned_mix=True))
    for key, value in before.items():
        assert torch.equal(found[f"statistic {key}"], value)


@pytest.mark.parametrize(("name", "index"), KINDS)
def test_of_some_candidates_only_they_run_and_learn(name: str, index: int) -> None:
    candidates = layer_of(get_backbone(name), index, copies=3)
    before = copy.deepcopy(dict(candidates.named_buffers()))
    x = random_input(inputs_of(candidates))
    expected = 0.25 * copy.deepcopy(candidates[0])(x) + 0.75 * copy.deepcopy(candidates[2])(x)
    out = fused(candidates, x, torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
    out.sum().backward()
    assert all(p.grad is None for p in candidates[1].parameters())
    assert all(p.grad is not None for j in (0, 2) for p in candidates[j].parameters())
    after = dict(candidates.named_buffers())
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"0", "2"}


class Backwards(TorchDispatchMode):
    """Collects which gradients convolutions are asked for: (input, weight, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[bool, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def test_no_gradients_are_computed_for_weights_that_do_not_learn() -> None:
    candidates = layer_of(get_backbone("mobilenet_v2"), 2).requires_grad_(False)
    x = random_input(24).requires_grad_()
    weights = torch.full((COPIES,), 1 / COPIES, dtype=torch.float64, requires_grad=True)
    with Backwards() as seen:
        fused(candidates, x, weights).sum().backward()
    assert seen.masks == [(True, False, False)] * 3  # projection, depthwise, expansion: each once for all candidates
    with Backwards() as seen:
        fused(candidates.requires_grad_(True), x, weights).sum().backward()
    assert seen.masks == [(True, True, False)] * 3


class SqueezeExcite(nn.Module):
    """A block of other networks (Hu et al. 2018), with biases, methods, functions and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(4, 2, 1)
        self.expand = nn.Conv2d(2, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.BatchNorm2d(4)  # normalises what all candidates share

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.expand(F.relu(self.reduce(self.pool(x)))))
        return torch.cat([self.norm(self.conv(x * scale)), F.silu(self.first(x)) + x, x], 1)


def test_other_blocks_than_the_house_s_own_are_understood_too() -> None:
    candidates = candidates_of(SqueezeExcite())
    assert candidates.why_not_fused() is None
    x = random_input(4)
    check_same(everything(fused, candidates, x, learned_mix=True), everything(loop, candidates, x, learned_mix=True))


class Unusual(nn.Module):
    def __init__(self, act: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, self.conv(x))


def branching(self: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Unusual(lambda self, x: self.drop(x), drop=nn.Dropout()), "drop = Dropout"),
        (Unusual(lambda self, x: self.norm(x), norm=nn.GroupNorm(2, 4)), "norm = GroupNorm"),
        (Unusual(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(4, momentum=None)), "norm = BatchNorm2d"),
        (Unusual(lambda self, x: self.pad(x), pad=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "reflect"),
        (Unusual(lambda self, x: x.flatten(1)), "flatten"),
        (Unusual(lambda self, x: x + x.shape[2]), "joins a tensor with a shape"),
        (Unusual(lambda self, x: torch.cat([x, x], dim=2)), "cat"),
        (Unusual(lambda self, x: x.mean(dim=(1, 2), keepdim=True)), "mean"),
        (Unusual(branching), "torch.fx cannot trace it"),
        (nn.ReLU(), "its output is not one tensor that depends on parameters"),
    ],
)
def test_what_is_not_understood_stays_sequential_and_says_why(module: nn.Module, reason: str) -> None:
    candidates = Candidates(copy.deepcopy(module) for _ in range(2))
    assert reason in str(candidates.why_not_fused())
    with pytest.raises(ValueError, match="can only be sequential") as raised:
        candidates.form = FUSED
    assert reason in str(raised.value)
    assert candidates.form == SEQUENTIAL


def test_a_copy_computes_with_its_own_parameters() -> None:
    candidates = layer_of(get_backbone("mobilenet_v2"), 2).eval()
    x, weights = random_input(24), torch.tensor(WEIGHTS, dtype=torch.float64)
    before = fused(candidates, x, weights)  # from here on the plan of the pass exists
    twin = copy.deepcopy(candidates)
    assert twin.form == FUSED
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(fused(twin, x, weights), loop(twin, x, weights))
    assert torch.equal(fused(candidates, x, weights), before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_blocks_of_channels_are_summed_mixed_and_repeated_as_einsum_does(memory_format: torch.memory_format) -> None:
    wide = torch.randn(2, 3 * 4, 5, 6, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)
    blocks = wide.detach().unflatten(1, (3, 4))
    torch.testing.assert_close(total(wide, 3), blocks.sum(dim=1))
    torch.testing.assert_close(mixture(wide, weights, 3), torch.einsum("nkchw,k->nchw", blocks, weights))
    torch.testing.assert_close(widened(wide, 2), wide.repeat(1, 2, 1, 1))
    for run in (lambda x, w: total(x, 3), lambda x, w: mixture(x, w, 3), lambda x, w: widened(x, 2)):
        assert run(wide, weights).is_contiguous(memory_format=memory_format)
        assert torch.autograd.gradcheck(run, (wide, weights))

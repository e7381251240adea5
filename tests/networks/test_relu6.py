"""ReLU6 that keeps its result: PyTorch's values and gradients, with one tensor less kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bmtas.networks.relu6 import LeanReLU6, use_lean_relu6


def values() -> Tensor:
    edges = torch.tensor([0.0, -0.0, 6.0, 5.9999995, 1e-30, -1e-30, 7.0, -3.0, float("inf"), float("nan")])
    random = torch.randn(54, generator=torch.Generator().manual_seed(1)) * 6
    return torch.cat([edges, random]).reshape(2, 4, 2, 4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_pytorch_s(memory_format: torch.memory_format) -> None:
    x = values().to(memory_format=memory_format).requires_grad_()
    weights = torch.arange(64.0).reshape(2, 4, 2, 4)
    found, expected = LeanReLU6()(x * 1), nn.ReLU6(inplace=True)(x * 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0, equal_nan=True)


def test_it_works_in_place_and_keeps_nothing_else() -> None:
    x = values().requires_grad_()
    before = x * 1
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        after = LeanReLU6()(before)
    assert after.data_ptr() == before.data_ptr()
    assert [t.data_ptr() for t in kept] == [before.data_ptr()]
    with torch.no_grad():
        x = values()
        assert LeanReLU6()(x).data_ptr() == x.data_ptr()


def test_a_value_that_is_changed_afterwards_is_noticed() -> None:
    x = values().nan_to_num().requires_grad_()
    y = LeanReLU6()(x * 1)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_only_activations_in_place_are_replaced() -> None:
    module = nn.Sequential(nn.ReLU6(inplace=True), nn.ReLU6(), nn.Sequential(nn.ReLU6(inplace=True)), nn.ReLU())
    use_lean_relu6(module.eval())
    assert [type(m) for m in module] == [LeanReLU6, nn.ReLU6, nn.Sequential, nn.ReLU]
    assert isinstance(module[2][0], LeanReLU6)
    assert not module[0].training

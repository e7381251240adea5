"""The optimisers of the weights: the numbers of their formulas, whatever implementation computes them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bmtas.config import Optimiser
from bmtas.networks.backbone import channels_last
from bmtas.optim import set_poly_rate, weight_optimiser

RATE = 0.01


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    channels_last(network)
    return network


def give_gradients(network: nn.Module, step: int, skip: frozenset[str] = frozenset()) -> None:
    """Random gradients in the layout of the parameters; those whose names begin with `skip` get none."""
    generator = torch.Generator().manual_seed(step)
    for name, p in network.named_parameters():
        gradient = torch.randn(p.shape, generator=generator)
        p.grad = None if name[0] in skip else torch.empty_like(p).copy_(gradient)


def sgd_by_hand(p: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: float) -> Tensor:
    """Momentum 0.9, weight decay 0.0001 (paper, appendix A), in float64."""
    velocity = 0.9 * state.get("velocity", torch.zeros_like(p)) + gradient + 1e-4 * p
    state["velocity"] = velocity
    return p - rate * velocity


def adamw_by_hand(p: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: float) -> Tensor:
    """Loshchilov & Hutter 2019, algorithm 2, with PyTorch's betas and epsilon."""
    step = state.get("step", torch.zeros(())) + 1
    first = 0.9 * state.get("first", torch.zeros_like(p)) + 0.1 * gradient
    second = 0.999 * state.get("second", torch.zeros_like(p)) + 0.001 * gradient**2
    state |= {"step": step, "first": first, "second": second}
    p = p - rate * 1e-4 * p
    return p - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)


Rule = Callable[[Tensor, Tensor, dict[str, Tensor], float], Tensor]


@pytest.mark.parametrize(("kind", "rule"), [(Optimiser.SGD, sgd_by_hand), (Optimiser.ADAMW, adamw_by_hand)])
def test_steps_follow_the_formulas_also_for_parameters_that_join_later(
    network: nn.Sequential, kind: Optimiser, rule: Rule
) -> None:
    optimiser = weight_optimiser(kind, network.parameters(), RATE)
    values = {name: p.detach().double() for name, p in network.named_parameters()}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in values}
    # The last convolution has no gradient at first, as a candidate that another task warms up.
    for step, skip in enumerate([frozenset("2"), frozenset("2"), frozenset(), frozenset("0"), frozenset()]):
        set_poly_rate(optimiser, step / 10)
        give_gradients(network, step, skip)
        for name, p in network.named_parameters():
            if p.grad is not None:
                rate = RATE * (1 - step / 10) ** 0.9
                values[name] = rule(values[name], p.grad.double(), states[name], rate)
        optimiser.step()
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach().double(), values[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", Optimiser)
def test_parameters_without_gradients_stay_as_they_are(network: nn.Sequential, kind: Optimiser) -> None:
    optimiser = weight_optimiser(kind, network.parameters(), RATE)
    before = network[2].weight.detach().clone()
    give_gradients(network, 0, frozenset("2"))
    optimiser.step()
    assert torch.equal(network[2].weight, before)


@pytest.mark.parametrize("kind", Optimiser)
def test_the_cpu_takes_the_implementation_of_one_pass(network: nn.Sequential, kind: Optimiser) -> None:
    assert [group["fused"] for group in weight_optimiser(kind, network.parameters(), RATE).param_groups] == [True]
    on_meta = copy.deepcopy(network).to("meta")
    assert [group["fused"] for group in weight_optimiser(kind, on_meta.parameters(), RATE).param_groups] == [False]


@pytest.mark.parametrize("kind", Optimiser)
def test_from_its_checkpoint_it_goes_on_bit_for_bit(network: nn.Sequential, kind: Optimiser) -> None:
    optimiser = weight_optimiser(kind, network.parameters(), RATE)
    for step in range(2):
        give_gradients(network, step, frozenset("2"))
        optimiser.step()
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = copy.deepcopy(network)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(saved["network"])
    restored = weight_optimiser(kind, other.parameters(), RATE)
    restored.load_state_dict(saved["optimiser"])
    for step in range(2, 5):
        for net, opt in ((network, optimiser), (other, restored)):
            set_poly_rate(opt, step / 10)
            give_gradients(net, step)
            opt.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_pytorch_s_plain_implementation_is_taken(network: nn.Sequential) -> None:
    plain = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    for group in plain.param_groups:
        group["base_lr"] = RATE
    give_gradients(network, 0, frozenset("2"))
    plain.step()
    other = copy.deepcopy(network)
    restored = weight_optimiser(Optimiser.SGD, other.parameters(), RATE)
    restored.load_state_dict(copy.deepcopy(plain.state_dict()))
    for net, opt in ((network, plain), (other, restored)):
        give_gradients(net, 1)
        opt.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

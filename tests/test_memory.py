"""Peak activation memory: by hand, and against what PyTorch's own profiler sees the CPU allocate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bmtas.architecture import Architecture
from bmtas.memory import peak_activations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.tasks import Task, TaskKind

FLOAT = 4
Draw = Callable[[int, str, tuple[str, ...], int], Architecture]


def image(channels: int, height: int = 6, width: int = 10) -> Tensor:
    return torch.randn(1, channels, height, width)


def pixels(x: Tensor) -> int:
    return x.shape[-2] * x.shape[-1]


def test_a_chain_of_convolutions_by_hand() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 5, 1))
    x = image(3)
    # The image, which the caller holds, beside input and output of one convolution: 3 + 8 + 4 channels, then 3 + 4 + 5.
    assert peak_activations(chain, [x]) == FLOAT * pixels(x) * (3 + 8 + 4)


def test_of_a_long_chain_two_values_are_alive_at_a_time() -> None:
    chain = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(10)))
    x = image(2)
    assert peak_activations(chain, [x]) == FLOAT * pixels(x) * (2 + 2 + 2)


@pytest.mark.parametrize(("layer", "channels", "at_once"), [("layers.04", 32, 3), ("layers.03", 24, 2)])
def test_the_expanded_values_of_an_inverted_residual_dominate(layer: str, channels: int, at_once: int) -> None:
    x, expanded = image(channels, 8, 12), 6 * channels
    # Without a stride: while the depthwise convolution's output is normalised, alive are x, the expanded value, and that
    # output before and after. With stride 2 its outputs have a quarter of the pixels, and the expanded value before and
    # after its own normalisation is more. A normalisation has two numbers per channel beside that.
    values = (channels + at_once * expanded) * pixels(x) + 2 * expanded
    assert peak_activations(get_backbone("mobilenet_v2").operations()[layer], [x]) == FLOAT * values


class InPlaceAndViews(nn.Module):
    """Makes one new value, works on it in place and looks at it in other shapes; then makes a second one."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        y.relu_().mul_(2)
        z = y.view(-1)[1:].unsqueeze(0)
        return z.expand(3, -1).sum(dim=0)  # one number less than y


def test_in_place_operations_and_views_count_nothing() -> None:
    x = image(2)
    assert peak_activations(InPlaceAndViews(), [x]) == FLOAT * (3 * x.numel() - 1)


class Kept(nn.Module):
    """Keeps a value until the end, or drops it."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = x * 2
        second = first * 2
        if not self.keep:
            del first
        third = second * 2
        return (third, first) if self.keep else (third,)


def test_what_is_dropped_is_dead_and_what_is_kept_is_alive() -> None:
    x = image(1)
    assert peak_activations(Kept(keep=True), [x]) == FLOAT * 4 * x.numel()
    assert peak_activations(Kept(keep=False), [x]) == FLOAT * 3 * x.numel()


class Transposed(nn.Module):
    """Reads its weight through a view, and a buffer beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(50, 70))
        self.register_buffer("offset", torch.zeros(1000))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t().contiguous().t().t() + self.get_buffer("offset")[:50]


def test_parameters_buffers_and_views_of_them_do_not_count() -> None:
    x = torch.zeros(2, 70)
    # Of the weight only its copy in another order counts, which the expression holds for the product alone.
    assert peak_activations(Transposed(), [x]) == FLOAT * (2 * 70 + 70 * 50 + 2 * 50)


def test_an_input_that_is_given_twice_counts_once_and_other_types_by_their_size() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    x = torch.zeros(100, dtype=torch.float64)
    assert peak_activations(Sum(), [x, x]) == 8 * 200
    assert peak_activations(Sum(), [x, torch.zeros(100)]) == 8 * 200 + 4 * 100


def test_the_module_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network[2].eval()
    values = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = dict(network.named_parameters())
    peak_activations(network, [image(3)])
    assert (network.training, network[1].training, network[2].training) == (True, True, False)
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in network.named_parameters())


def test_a_module_that_fails_stays_as_it_is_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(RuntimeError):
        peak_activations(network, [image(5)])
    assert network.training
    assert network[0].weight.device.type == "cpu"


def profiled_peak(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Return inputs and what the CPU's allocator has handed out at most, as torch.profiler records it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of other devices' settings
        # Without oneDNN, which brings weights into another order and keeps them. A 1x1 or depthwise convolution then
        # has no workspace, and MobileNetV2 after its stem has no others.
        with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[no-untyped-call]
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
                output = module(*inputs)
            del output
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak + sum(x.nbytes for x in inputs)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_whole_network_takes_what_the_profiler_sees(random_architecture: Draw, seed: int) -> None:
    tasks = (
        Task(name="a", kind=TaskKind.DEPTH),
        Task(name="b", kind=TaskKind.SEGMENTATION, classes=tuple("pqrstu")),
        Task(name="c", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
    )
    names = tuple(task.name for task in tasks)
    network = build_network(random_architecture(seed, "mobilenet_v2", names, 18), tasks).eval()
    x = image(3, 64, 96)
    assert peak_activations(network, [x]) == profiled_peak(network, [x])

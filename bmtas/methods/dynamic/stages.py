"""The three stages of dynamic topologies: warm-up, search, and fine-tuning from the weights of the warm-up's end.

Choi & Im, CVPR 2023, supplement, section 1: "before the fine-tuning stage, we rewind the model parameters to the parameters at the end
of the warm-up stage". In the warm-up all arcs weigh alike, since their parameters are still those of the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from bmtas.methods.dynamic.settings import SearchWeights
from bmtas.schedule import WEIGHTS

SHARED_FAMILIES = ("stem", "links", "read_ins", "read_outs")
"""Operations whose parameters all tasks share; the last layer of the encoder and the heads are each task's own."""


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and statistics, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def learning(network: nn.Module, phase: str, which: SearchWeights) -> dict[str, nn.Parameter]:
    """Return the parameters that weight steps of `phase` change, by name: in the warm-up all, then as `which` says."""
    everything = dict(network.named_parameters())
    if phase != WEIGHTS or which is SearchWeights.ALL:
        return everything
    return {name: p for name, p in everything.items() if name.partition(".")[0] not in SHARED_FAMILIES}


@contextmanager
def only(network: nn.Module, learned: dict[str, nn.Parameter]) -> Iterator[None]:
    """Let no other parameter of `network` have a gradient."""
    others = [p for name, p in network.named_parameters() if name not in learned]
    for parameter in others:
        parameter.grad = None
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_()

"""Networks with random weights that can be timed: what flows in them are normal numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bmtas.architecture import Architecture
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task
from export.interface import Interface
from export.onnx_file import master_model


def untrained_network(architecture: Architecture, tasks: Iterable[Task]) -> GraphNetwork:
    """Return the network of `architecture` in evaluation mode, random but the same each time.

    All biases are drawn: they begin at 0, and the exporter leaves such out, so that the network would not be the one that training
    gives. Without them values fade with depth, too, and processors are many times slower with numbers near 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(architecture, tasks).eval()
        for name, parameter in network.named_parameters():
            if name.endswith(".bias"):
                nn.init.uniform_(parameter, -0.5, 0.5)
    return network


def untrained_model(architecture: Architecture, tasks: Sequence[Task], size: tuple[int, int]) -> Any:
    """Return the ONNX ModelProto of `untrained_network` for images of `size` (height, width), as `bmtas export` would write it."""
    return master_model(
        untrained_network(architecture, tasks),
        architecture=architecture,
        tasks=tasks,
        size=size,
        costs={},
        interface=Interface(),
    )

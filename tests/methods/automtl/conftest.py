"""A backbone of four convolutions for AutoMTL, small enough to look at every network of its space."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import Backbone, Parts, conv_norm, get_backbone
from bmtas.networks.operations import Kit
from bmtas.profile import build_table
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

TASKS = ("depth", "normals")


class Residual(nn.Module):
    """A 3x3 convolution around which the input goes too, both normalised by what no convolution stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 4, H, W) to the same shape."""
        return torch.relu(self.norm(x + self.conv(x)))


def _parts() -> Parts:
    # Skips: 1x1 convolutions instead of the stem's and of the wide one, nothing for the residual and the last one.
    stem = conv_norm(3, 4, 3, nn.ReLU)
    stem[0].stride = (4, 4)
    return Parts(stem, (Residual(), conv_norm(4, 6, 5, nn.ReLU), conv_norm(6, 6, 1, nn.ReLU)), {})


FOUR: Backbone = replace(
    get_backbone("tiny"),
    name="four",
    build=_parts,
    layers=3,
    tap=1,
    tap_channels=6,
    channels=6,
    stride=4,
    stages=(2, 1),
)


@dataclass(frozen=True, eq=False)
class Small:
    """The space of the small backbone, its table, and the costs of all its networks: `policies` (B, T, L)."""

    space: ConvolutionSpace
    table: CostTable
    policies: npt.NDArray[np.int64]
    costs: dict[Resource, npt.NDArray[np.float64]]


@pytest.fixture(scope="session")
def small() -> Small:
    """Return two tasks on the small backbone, every one of its 3^8 networks drawn as a graph and priced by the table."""
    tasks = tuple(Task(name=name, kind=TaskKind.DEPTH) for name in TASKS)
    kit = Kit(FOUR, {task.name: task for task in tasks})
    space = ConvolutionSpace(kit)
    table = with_operations(build_table(FOUR, tasks, (32, 32)), space, kit)
    policies = np.array(list(itertools.product(range(3), repeat=8))).reshape(-1, 2, 4)
    each = [architecture_costs(table, space.architecture(policy)) for policy in policies]
    resources = (Resource.MADDS, Resource.PARAMS)
    return Small(space, table, policies, {r: np.array([costs[r] for costs in each]) for r in resources})

"""Cross-Stitch networks (Misra et al., CVPR 2016): an encoder per task; after every stage x_i becomes sum_j a_ij x_j.

One scalar per pair of tasks and feature tensor, which was more stable than one per channel (Bruggemann et al., BMVC 2020, appendix B).
"""

from __future__ import annotations

import torch

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.methods.sharing.paths import OTHERS, OWN, joined_paths, units
from bmtas.networks.fusions import WeightedSum
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit


def architecture(kit: Kit) -> WiredArchitecture:
    """Return the network of all tasks of `kit`, in their order."""
    count = len(kit.tasks)
    return joined_paths(kit, Method.CROSS_STITCH, lambda place, task: (f"sums.{count}", f"{place}.{task}"))


def start(network: GraphNetwork) -> None:
    """Set all units to 0.8 and 0.2 / (T - 1)."""
    for unit in units(network, "sums"):
        assert isinstance(unit, WeightedSum)
        count = len(unit.weights)
        with torch.no_grad():
            unit.weights.copy_(torch.tensor([OWN] + [OTHERS / (count - 1)] * (count - 1)))

"""NDDR-CNN (Gao et al., CVPR 2019): an encoder per task; after every stage each task fuses the features of all by a 1x1 convolution.

ReLU(BN(Conv1x1([x_1, ..., x_T]))), `bmtas.networks.fusions`; on MobileNetV2 as well, whose own ReLU6 is in its blocks. The authors' code
multiplies the learning rate of fusions by 100; training here has one rate.
"""

from __future__ import annotations

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.methods.sharing.paths import OTHERS, OWN, joined_paths, units
from bmtas.networks.fusions import Fusion
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit


def architecture(kit: Kit) -> WiredArchitecture:
    """Return the network of all tasks of `kit`, in their order."""
    count = len(kit.tasks)
    return joined_paths(kit, Method.NDDR_CNN, lambda place, task: (f"fusions.{place}.{count}", task))


def start(network: GraphNetwork) -> None:
    """Let all fusions weigh features by 0.8 and 0.2 / (T - 1)."""
    for unit in units(network, "fusions"):
        assert isinstance(unit, Fusion)
        unit.begin(OWN, OTHERS / (unit.inputs - 1))

"""Sluice networks (Ruder et al., AAAI 2019): an encoder per task; after every stage the halves of all features are mixed by scalars.

Of the publication's three kinds of parameters the alphas are here: a matrix (2T x 2T) at each place. Left out are the betas, which mix the
outputs of all layers in front of the prediction and need one shape for all of them, which layers of a convolutional encoder do not
have; and the penalty that keeps the two subspaces of a layer orthogonal, whose weight is 0 unless set in the authors' code, because
training adds nothing to the tasks' losses here.
"""

from __future__ import annotations

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.methods.sharing.paths import joined_paths, units
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit
from bmtas.networks.subspaces import SUBSPACES, SubspaceMixture

OWN, OTHERS = 0.9, 0.1
"""What a half begins with for itself, and what is dealt to all other halves of all tasks: the scheme `imbalanced` of the authors' code
for one subspace. Its scheme for two prefers the other half, which would spoil what separate networks have learned."""


def architecture(kit: Kit) -> WiredArchitecture:
    """Return the network of all tasks of `kit`, in their order."""
    count = len(kit.tasks)
    return joined_paths(kit, Method.SLUICE, lambda place, task: (f"subspaces.{place}.{count}", task))


def start(network: GraphNetwork) -> None:
    """Set all alphas to 0.9 and 0.1 / (2T - 1)."""
    for unit in units(network, "subspaces"):
        assert isinstance(unit, SubspaceMixture)
        unit.begin(OWN, OTHERS / (SUBSPACES * unit.inputs - 1))

"""The units of sluice networks (Ruder et al., AAAI 2019): `subspaces.layers.07.3` mixes the halves of 3 outputs of layer 7."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.fusions import weighted_sum
from bmtas.networks.operations import Kit

SUBSPACES = 2
"""Equal parts of the channels, as in the publication."""


class SubspaceMixture(nn.Module):
    """One task's two rows of the alpha matrix (2T x 2T): both halves of the result are sums of all halves of all inputs.

    `alphas` (2, 2k): result half, then input halves in the order of the inputs, the task's own features first. They begin as the
    identity: both halves of the first input, unchanged.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.alphas = nn.Parameter(torch.eye(SUBSPACES, SUBSPACES * inputs))

    def begin(self, own: float, others: float) -> None:
        """Weigh each half's own features by `own` and everything else by `others`."""
        identity = torch.eye(SUBSPACES, SUBSPACES * self.inputs)
        with torch.no_grad():
            self.alphas.copy_(others + (own - others) * identity)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map k tensors (N, C, H, W) to one; C is even."""
        halves = [half for x in inputs for half in x.chunk(SUBSPACES, dim=1)]
        return torch.cat([weighted_sum(halves, self._row(row)) for row in range(SUBSPACES)], dim=1)

    def _row(self, row: int) -> Iterator[Tensor]:
        return (self.alphas[row, i] for i in range(SUBSPACES * self.inputs))


def build(operation: str, kit: Kit) -> nn.Module:
    """Return the module of a mixture. Raises UsageError for another name, and where the channels have no equal parts."""
    family, _, rest = operation.partition(".")
    place, _, count = rest.rpartition(".")
    inputs = int(count) if count.isdecimal() else 0
    if family != "subspaces" or place not in kit.shapes or not inputs:
        raise UsageError(
            f"architecture: no operation {operation!r}; a mixture of subspaces is called subspaces.LAYER.INPUTS with a layer of {kit.backbone.name}"
        )
    channels = kit.shapes[place][1]
    if channels % SUBSPACES:
        raise UsageError(
            f"--method sluice: {place} of {kit.backbone.name} has {channels} channels, which cannot be cut into {SUBSPACES} equal subspaces; "
            "take another --backbone"
        )
    return SubspaceMixture(inputs)

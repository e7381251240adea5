"""What Cross-Stitch, NDDR-CNN and sluice networks have in common: an encoder per task, and units that join all of them after every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.graph import Expression, head_name, layer_name
from bmtas.networks.network import GraphNetwork
from bmtas.networks.operations import Kit

OWN, OTHERS = 0.8, 0.2
"""What a unit begins with for the task's own features, and what is dealt to those of all other tasks: alpha = 0.8, beta = 0.2 / (T - 1)
(Bruggemann et al., BMVC 2020, appendix B)."""


def joined_paths(kit: Kit, method: Method, unit: Callable[[str, str], tuple[str, str]]) -> WiredArchitecture:
    """Return the network of an encoder per task in which `unit` (place, task) names the operation and weights that join all tasks.

    Places are the last layers of the backbone's stages. A unit reads the outputs of all tasks there, the task's own first. What comes
    after, and the decoder's tap, read what the unit gives. One task alone has no units.
    """
    backbone, tasks = kit.backbone, tuple(kit.tasks)
    ends = {stage[-1] for stage in backbone.stage_names()} if len(tasks) > 1 else set()
    values: dict[str, Expression] = {}
    taps: dict[str, Expression] = {}
    for operation in ("stem", *backbone.layer_names()):
        made = {t: Expression(operation, t, (values[t],) if values else ()) for t in tasks}
        values = made
        if operation in ends:
            values = {
                t: Expression(*unit(operation, t), (made[t], *(made[other] for other in tasks if other != t)))
                for t in tasks
            }
        if operation == layer_name(backbone.tap):
            taps = values
    heads = {t: Expression(head_name(t), t, (values[t], taps[t])) for t in tasks}
    return WiredArchitecture.of(backbone.name, method.value, heads)


def take_over(network: GraphNetwork, separate: GraphNetwork) -> None:
    """Copy the weights of separate networks into encoders and heads, which have the same names there."""
    own = network.graph.modules()
    for name in separate.graph.modules():
        if name not in own:
            raise ValueError(f"{name} of the separate networks has no place in this network")
        network.get_submodule(name).load_state_dict(separate.get_submodule(name).state_dict())


def units(network: GraphNetwork, family: str) -> Iterator[nn.Module]:
    """Yield the modules of a family of operations."""
    for name, operation in network.graph.modules().items():
        if operation.partition(".")[0] == family:
            yield network.get_submodule(name)

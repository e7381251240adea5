"""MTAN (Liu et al., CVPR 2019): one encoder for all tasks, and masks with which each task takes from it (`bmtas.networks.attention`).

Refinements are shared by all tasks, masks are a task's own. The ASPP module is computed for each task, on what it has refined last, and
is its own: the batch statistics of one module for all would be those of no task. The decoder's tap reads the task's masked features.
It begins from the backbone's weights, so there are no first weights to set.
"""

from __future__ import annotations

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.graph import Expression, head_name, layer_name
from bmtas.networks.attention import places_of
from bmtas.networks.operations import Kit


def architecture(kit: Kit) -> WiredArchitecture:
    """Return the network of all tasks of `kit`, in their order."""
    backbone, tasks = kit.backbone, tuple(kit.tasks)
    everyone = "+".join(tasks)
    encoder: dict[str, Expression] = {}
    inputs: tuple[Expression, ...] = ()
    for operation in (name for stage in backbone.stage_names() for name in stage):
        encoder[operation] = Expression(operation, everyone, inputs)
        inputs = (encoder[operation],)
    after = [name for name in backbone.layer_names() if name not in encoder]
    heads = {}
    for task in tasks:
        values, features = _attended(kit, encoder, task, everyone)
        for operation in after:
            features = Expression(operation, task, (features,))
        heads[task] = Expression(head_name(task), task, (features, values[layer_name(backbone.tap)]))
    return WiredArchitecture.of(backbone.name, Method.MTAN.value, heads)


def _attended(
    kit: Kit, encoder: dict[str, Expression], task: str, everyone: str
) -> tuple[dict[str, Expression], Expression]:
    """Return a task's features at every operation, masked where there is attention, and what it has refined last."""
    values = dict(encoder)
    refined: list[Expression] = []
    for place in places_of(kit):
        read = (encoder[place.before], encoder[place.last], *refined[-1:])
        values[place.last] = Expression(f"masks.{place.last}", task, read)
        refined.append(Expression(f"refines.{place.last}", everyone, (values[place.last],)))
    return values, refined[-1]

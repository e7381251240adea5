"""The network of a merged graph: one executor for whatever a method has derived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import UsageError
from bmtas.graph import IMAGE, MergedGraph, Node
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.networks.weights import Weights
from bmtas.tasks import Task


class GraphNetwork(nn.Module):
    """Runs a merged graph. Its parameters are named after the graph: `layers.07.semseg+parts.conv.0.0.weight`."""

    def __init__(self, graph: MergedGraph, modules: Mapping[str, nn.Module], dense: Iterable[str]) -> None:
        """Hold `modules`, one per set of parameters of `graph`; `dense` names the tasks predicted per pixel."""
        super().__init__()
        self.graph = graph
        self.dense = frozenset(dense)
        self._order = graph.layer_by_layer()
        for name, module in modules.items():
            _attach(self, name, module)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (N, 3, H, W) to the raw predictions per task: (N, channels, H, W), or (N, channels) if not dense."""
        return self.run(image)

    def run(
        self,
        image: Tensor,
        apply: Callable[[Node, Sequence[Tensor]], Tensor] | None = None,
        tasks: Iterable[str] | None = None,
    ) -> dict[str, Tensor]:
        """Map (N, 3, H, W) to the raw predictions of `tasks` (None: all), as `forward` does; runs only the nodes that these need.

        `apply` maps a node and the values of its inputs to its own value (None: `compute`, by the node's module). Runs layer by
        layer and drops each value after its last use, so that without gradients no more is alive at a time than a later node
        needs: `bmtas.activations` counts on this order.
        """
        apply = self.compute if apply is None else apply
        outputs = self.graph.outputs if tasks is None else {task: self.graph.outputs[task] for task in tasks}
        order = [node for node in self._order if any(task in outputs for task in node.tasks)]
        uses = Counter([*(name for node in order for name in node.inputs), *outputs.values()])
        values = {IMAGE: image}

        def take(name: str) -> Tensor:
            uses[name] -= 1
            return values[name] if uses[name] else values.pop(name)

        for node in order:
            values[node.name] = apply(node, [take(name) for name in node.inputs])
        predictions = {}
        for task, name in outputs.items():
            raw = take(name)
            predictions[task] = to_image_size(raw, image.shape[-2:]) if task in self.dense else raw
        return predictions

    def compute(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Return what the module of `node` makes of the values of its inputs."""
        value: Tensor = self.get_submodule(node.module)(*inputs)
        return value

    def subset(self, tasks: Iterable[str]) -> GraphNetwork:
        """Return the smaller network that predicts only `tasks`; it shares the parameters with this one."""
        graph = self.graph.subset(tasks)
        return GraphNetwork(graph, {name: self.get_submodule(name) for name in graph.modules()}, self.dense)


def to_image_size(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """Map a dense prediction (N, channels, h, w) to (N, channels, H, W), `size` being (H, W)."""
    return F.interpolate(prediction, size=list(size), mode="bilinear", align_corners=False)


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register `module` under a dotted name, so that the name is what stands in the state dict."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(last, module)


def build_network(architecture: Architecture, tasks: Iterable[Task], weights: Weights | None = None) -> GraphNetwork:
    """Return the network of `architecture`, every encoder node starting from `weights` (None: random).

    Heads, and operations that `weights` lack, are random; seed torch before for a reproducible network. Raises UsageError if
    the architecture does not fit its backbone or names a task that is not among `tasks`.
    """
    backbone = get_backbone(architecture.backbone)
    if isinstance(architecture, BranchedArchitecture) and len(architecture.groupings) != backbone.layers:
        raise UsageError(
            f"architecture: {len(architecture.groupings)} groupings, but {backbone.name} has {backbone.layers} searchable "
            "layers; one grouping is needed per layer"
        )
    by_name = {task.name: task for task in tasks}
    unknown = sorted(set(architecture.tasks) - set(by_name))
    if unknown:
        raise UsageError(
            f"architecture: tasks {unknown} are not among those given, {sorted(by_name)}; give all of its tasks"
        )
    graph, kit = architecture.graph(backbone.tap), Kit(backbone, by_name, weights)
    modules = {name: kit.build(operation) for name, operation in graph.modules().items()}
    return GraphNetwork(graph, modules, [name for name in architecture.tasks if by_name[name].dense])

"""The modules behind a merged graph's operations, whatever the method: each family of operations is built in a file of its own.

The part of an operation's name before its first dot names the family: `fusions.07.3` is built by `bmtas.networks.fusions`. Stem,
layers and heads are the backbone's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from bmtas.counting import Count, count_module
from bmtas.errors import UsageError
from bmtas.graph import HEADS, IMAGE, MergedGraph
from bmtas.networks.backbone import Backbone, fresh_copy, initialise
from bmtas.networks.heads import build_head
from bmtas.networks.weights import Weights
from bmtas.tasks import Task

_FAMILIES = {
    "convs": "traced",
    "glue": "traced",
    "norms": "traced",
    "skips": "traced",
    "fusions": "fusions",
    "masks": "attention",
    "refines": "attention",
    "subspaces": "subspaces",
    "sums": "fusions",
    "links": "states",
    "read_ins": "states",
    "read_outs": "states",
}
"""Modules of `bmtas.networks` by family, each with `build(operation, kit) -> nn.Module`, initialised."""


@dataclass(frozen=True)
class Kit:
    """What operations are made from: a backbone, the tasks by name, and the backbone's pretrained weights (None: random)."""

    backbone: Backbone
    tasks: Mapping[str, Task]
    weights: Weights | None = None

    @cached_property
    def prototypes(self) -> dict[str, nn.Module]:
        """The backbone's operations by name, with the pretrained weights; to be copied, not to be used. Raises UsageError if those do not fit."""
        made = self.backbone.operations()
        if self.weights is not None:
            self.weights.load_into(made)
        return made

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes (1, C, H, W) of the outputs of stem and layers for an image of 256x256: channels, and strides as 256 / H."""
        values, x = {}, torch.zeros(1, 3, 256, 256, device="meta")
        with torch.no_grad():
            for name, module in self.backbone.operations().items():
                x = module.to("meta").eval()(x)
                values[name] = x.shape
        return values

    def pretrained(self, operation: str) -> bool:
        """Whether the backbone's operation begins from pretrained weights."""
        return self.weights is not None and self.weights.covers(operation)

    def build(self, operation: str) -> nn.Module:
        """Return a new module of `operation`, initialised. Raises UsageError if no backbone and no family has it."""
        if operation.startswith(HEADS) and operation.removeprefix(HEADS) in self.tasks:
            head = build_head(self.tasks[operation.removeprefix(HEADS)], self.backbone)
            initialise(head)
            return head
        if operation in self.prototypes:
            return fresh_copy(self.prototypes[operation], pretrained=self.pretrained(operation))
        family = _FAMILIES.get(operation.partition(".")[0])
        if family is None:
            raise UsageError(
                f"architecture: {self.backbone.name} has no operation {operation!r}, and no method makes one of that name"
            )
        made: nn.Module = importlib.import_module(f"bmtas.networks.{family}").build(operation, self)
        return made

    def random(self) -> Kit:
        """Return the kit without pretrained weights."""
        return replace(self, weights=None)


def count_operations_of(
    graph: MergedGraph, kit: Kit, size: tuple[int, int], known: Mapping[str, Count] | None = None
) -> dict[str, Count]:
    """Return the count of every operation of `graph` for one image of `size` (height, width), those `known` as they are.

    Shapes are found on the meta device, where nothing is computed; what fvcore has not counted before runs once, for it traces.
    """
    counts = dict(known or {})
    values: dict[str, Tensor] = {IMAGE: torch.zeros(1, 3, *size, device="meta")}
    made: dict[str, nn.Module] = {}
    with torch.no_grad():
        for node in graph.layer_by_layer():
            module = made.get(node.operation)
            if module is None:
                module = kit.build(node.operation).eval()
                if node.operation not in counts:
                    shapes = [values[name].shape for name in node.inputs]
                    counts[node.operation] = count_module(module, [torch.zeros(shape) for shape in shapes])
                made[node.operation] = module = module.to("meta")
            values[node.name] = module(*(values[name] for name in node.inputs))
    return counts

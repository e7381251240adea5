"""Backbones as graphs of their single operations, traced by torch.fx: convolutions, normalisations, and what joins them.

What a model does with its tensors is read off a trace, not assumed from the kind of its blocks, so every convolutional network of
torchvision has such a graph. Values that are no tensors (sizes, tuples of slices) become part of the operation that uses them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from bmtas.errors import UsageError
from bmtas.graph import layer_name
from bmtas.networks.backbone import Backbone

IMAGE_PLACE = -1
"""Stands among the inputs of an operation for the image."""
SIDE = 256
"""Of the image with which shapes are found."""
_LEAVES = ("StochasticDepth",)
"""Modules of torchvision that behave otherwise in training and are kept whole, beside all of PyTorch's own."""
_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


class Kind(str, Enum):
    """What is done with an operation in a search."""

    CONV = "convs"
    NORM = "norms"
    GLUE = "glue"


@dataclass(frozen=True)
class Traced:
    """One operation of a traced backbone.

    `inputs` are the places of the operations it reads, in the order in which its module takes them. `owner` is the operation of
    the backbone that it is a part of and `path` its module there, empty where it is no module. A normalisation right `behind` a
    convolution has that one's place there; glue `owns` parameters only in few models.
    """

    place: int
    kind: Kind
    inputs: tuple[int, ...]
    owner: str
    path: str
    behind: int | None = None
    owns: bool = False

    @property
    def name(self) -> str:
        """Its name in graphs and tables: `convs.012`."""
        return f"{self.kind.value}.{self.place:03d}"


class Tracer(fx.Tracer):  # type: ignore[misc,unused-ignore]
    """Goes into the modules of torchvision and stops at those of PyTorch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether the module is one operation."""
        return type(m).__name__ in _LEAVES or super().is_leaf_module(m, module_qualified_name)


class Encoder(nn.Module):
    """Stem and layers of a backbone as one module: (N, 3, H, W) to the features of the last layer and of the tap."""

    def __init__(self, operations: Mapping[str, nn.Module], tap: int) -> None:
        """Hold the backbone's operations by name, as they are."""
        super().__init__()
        stem, *layers = operations.values()
        self.stem, self.layers, self.tap = stem, nn.ModuleList(layers), tap

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Apply all layers."""
        values = [self.stem(image)]
        for layer in self.layers:
            values.append(layer(values[-1]))
        return values[-1], values[self.tap + 1]


class Trace:
    """The operations of a backbone in the order of execution; the last of them need not be `features`, nor is `tap` always another.

    `convs` are the places of the convolutions. `shapes` are those of the outputs for an image of 256x256.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Trace a fresh instance. Raises what torch.fx raises where control flow depends on data."""
        encoder = Encoder(backbone.operations(), backbone.tap).eval()
        graph = Tracer().trace(encoder)
        self._backbone = backbone
        self._values = values_of(encoder, graph)
        kept = _needed(graph)
        self._nodes = [n for n in graph.nodes if n in kept and is_tensor(n, self._values) and n.op != "placeholder"]
        places = {node: place for place, node in enumerate(self._nodes)}
        places |= {node: IMAGE_PLACE for node in graph.nodes if node.op == "placeholder"}
        self.operations: list[Traced] = []
        for node in self._nodes:
            inputs = tuple(places[n] for n in tensor_inputs(node, self._values))
            self.operations.append(self._operation(encoder, node, places[node], inputs))
        outputs = next(n for n in graph.nodes if n.op == "output").args[0]
        self.features, self.tap = (places[node] for node in outputs)
        self.shapes = {places[node]: self._values[node].shape for node in self._nodes}
        self.shapes[IMAGE_PLACE] = torch.Size((1, 3, SIDE, SIDE))

    def _operation(self, encoder: Encoder, node: fx.Node, place: int, inputs: tuple[int, ...]) -> Traced:
        owner, path = _owner(node)
        part = encoder.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(part, nn.Conv2d):
            return Traced(place, Kind.CONV, inputs, owner, path)
        if isinstance(part, nn.BatchNorm2d):
            before = inputs[0]
            alone = before >= 0 and len(self._nodes[before].users) == 1
            behind = before if alone and self.operations[before].kind is Kind.CONV else None
            return Traced(place, Kind.NORM, inputs, owner, path, behind)
        if len(inputs) > 1 and IMAGE_PLACE in inputs:
            raise UsageError(
                f"{self._backbone.name} joins the image itself with features (in {owner}), which no graph of operations here can say; "
                "take another backbone for this method"
            )
        return Traced(place, Kind.GLUE, inputs, owner, path, owns=bool(list(self._parameters(encoder, node))))

    def _parameters(self, encoder: nn.Module, node: fx.Node) -> Iterator[nn.Parameter]:
        if node.op == "call_module":
            yield from encoder.get_submodule(str(node.target)).parameters()
        for before in node.all_input_nodes:
            if before.op == "get_attr":
                owner, _, name = str(before.target).rpartition(".")
                found = getattr(encoder.get_submodule(owner), name)
                yield from [found] if isinstance(found, nn.Parameter) else []
            elif not is_tensor(before, self._values):
                yield from self._parameters(encoder, before)

    @cached_property
    def by_name(self) -> dict[str, Traced]:
        """The operations by name."""
        return {operation.name: operation for operation in self.operations}

    @cached_property
    def convs(self) -> tuple[int, ...]:
        """Places of the convolutions, in order."""
        return tuple(o.place for o in self.operations if o.kind is Kind.CONV)

    @cached_property
    def norm_behind(self) -> dict[int, int]:
        """Places of the normalisations right behind a convolution, by the place of that one."""
        return {o.behind: o.place for o in self.operations if o.behind is not None}

    @cached_property
    def above(self) -> tuple[frozenset[int], ...]:
        """For each operation the places of the convolutions that its value depends on, without itself."""
        found: list[frozenset[int]] = []
        for operation in self.operations:
            inner = [i for i in operation.inputs if i != IMAGE_PLACE]
            direct = {i for i in inner if self.operations[i].kind is Kind.CONV}
            found.append(frozenset(direct).union(*(found[i] for i in inner)))
        return tuple(found)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The depth of each convolution: 1 + that of the deepest one above it."""
        depth: dict[int, int] = {}
        for place in self.convs:
            depth[place] = 1 + max((depth[i] for i in self.above[place]), default=0)
        return tuple(depth[place] for place in self.convs)

    def glue(self, place: int, operations: Mapping[str, nn.Module]) -> nn.Module:
        """Return the module of an operation that is neither convolution nor normalisation, its parameters copied from the backbone's `operations`."""
        node = self._nodes[place]
        root = Encoder(operations, self._backbone.tap)
        inputs = tensor_inputs(node, self._values)
        if node.op == "call_module" and len(node.args) == len(inputs) == 1 and not node.kwargs:
            return out_of_place(copy.deepcopy(root.get_submodule(str(node.target))))
        return out_of_place(copy.deepcopy(part_of(root, [node], inputs, node, self._values)))


@lru_cache(maxsize=16)
def trace_of(backbone: Backbone) -> Trace:
    """Return the trace of a backbone, which is made once."""
    return Trace(backbone)


def values_of(module: nn.Module, graph: fx.Graph, size: tuple[int, int] = (SIDE, SIDE)) -> dict[fx.Node, Any]:
    """Return the value of every node of a graph of `module` for one image of `size` (height, width); tensors are on the meta device."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):  # type: ignore[misc,unused-ignore]
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Recorder(copy.deepcopy(module).to("meta"), graph=graph).run(torch.zeros(1, 3, *size, device="meta"))
    return values


def is_tensor(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Say whether a node stands for a value of the network: a tensor that is no parameter."""
    return node.op not in ("get_attr", "output") and isinstance(values[node], Tensor)


def tensor_inputs(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """Return the tensors that a node reads, each once, also by way of values that are no tensors, in the order of its arguments."""
    found: dict[fx.Node, None] = {}

    def visit(reader: fx.Node) -> None:
        for argument in reader.all_input_nodes:
            if is_tensor(argument, values):
                found.setdefault(argument)
            else:
                visit(argument)

    visit(node)
    return list(found)


class Part(fx.GraphModule):  # type: ignore[misc,unused-ignore]
    """A piece of a traced model; it prints what it computes, by which its count is remembered."""

    def extra_repr(self) -> str:
        """Return the code."""
        return str(self.code)


def part_of(
    root: nn.Module,
    nodes: Sequence[fx.Node],
    inputs: Sequence[fx.Node],
    output: fx.Node,
    values: Mapping[fx.Node, Any],
) -> Part:
    """Return the module that computes `nodes` of a graph of `root`, from the tensors `inputs` to `output`; parameters stay the same objects.

    Values that are no tensors are computed in it again.
    """
    graph = fx.Graph()
    made = {node: graph.placeholder(node.name) for node in inputs}

    def lower(node: fx.Node) -> fx.Node:
        if node not in made:
            for argument in node.all_input_nodes:
                lower(argument)
            made[node] = graph.node_copy(node, lambda argument: made[argument])
            _keep_inputs(made[node])
        return made[node]

    for node in nodes:
        lower(node)
    graph.output(made[output])
    return Part(root, graph)


def _keep_inputs(node: fx.Node) -> None:
    """Let a function give a new tensor where it would change its input, which other operations may read."""
    if node.op == "call_function":
        node.target = _IN_PLACE.get(node.target, node.target)  # type: ignore[arg-type]
    if node.op == "call_method" and isinstance(node.target, str) and node.target.endswith("_"):
        node.target = node.target.rstrip("_") if not node.target.endswith("__") else node.target
    if "inplace" in node.kwargs:
        node.kwargs = {**node.kwargs, "inplace": False}


def out_of_place(module: nn.Module) -> nn.Module:
    """Let all parts of `module` give new tensors, and return it."""
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return module


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that the outputs depend on."""
    needed: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.op == "output" or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def _owner(node: fx.Node) -> tuple[str, str]:
    """Return the operation of the backbone in which a node of an `Encoder` stands, and the path of its module there."""
    if node.op == "call_module":
        where = str(node.target).split(".")
    else:
        stack = node.meta.get("nn_module_stack") or {}
        where = [*stack][-1].split(".") if stack else ["stem"]
    depth = 1 if where[0] == "stem" else 2
    owner = "stem" if depth == 1 else layer_name(int(where[1]))
    return owner, ".".join(where[depth:]) if node.op == "call_module" else ""

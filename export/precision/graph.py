"""What the passes over an ONNX graph share: parts of the network by name, types of values, new names. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bmtas.errors import BuildError, UsageError
from bmtas.extras import require
from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_DEPTH_OF_PART = {"layers": 3}
"""Names are `layers.<index>.<tasks>...`, `heads.<task>...`, `stem.<tasks>...`: how many words name one part."""


@dataclass(frozen=True)
class ValueType:
    """ONNX element type of a value, and its number of dimensions where shape inference finds it."""

    element: int
    rank: int | None


def module_of(node_name: str) -> str:
    """Return the module that a node comes from: `layers.07.parts.conv.0.1` of `layers.07.parts.conv.0.1/Conv`."""
    return node_name.split("/")[0]


def part_of(node_name: str) -> str:
    """Return the part of the network that a node belongs to: one layer of one group of tasks, one head, the stem."""
    words = module_of(node_name).split(".")
    return ".".join(words[: _DEPTH_OF_PART.get(words[0], 2)])


def is_kept(node_name: str, keep: Collection[str]) -> bool:
    """Return whether `keep` names the node, its module or a module around it (`heads.depth` for `heads.depth.predict`)."""
    if not keep or node_name in keep:
        return bool(keep)
    words = module_of(node_name).split(".")
    return any(".".join(words[:i]) in keep for i in range(1, len(words) + 1))


def require_known(model: ModelProto, keep: Iterable[str]) -> None:
    """Raise UsageError if `keep` names something that no node of the model belongs to."""
    for name in keep:
        if not any(is_kept(node.name, {name}) for node in model.graph.node):
            parts = dict.fromkeys(part_of(node.name) for node in model.graph.node)
            raise UsageError(f"no node or module is called {name!r}; the network's parts are {', '.join(parts)}")


def copied(model: ModelProto) -> ModelProto:
    """Return a copy of the model."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def value_types(model: ModelProto) -> dict[str, ValueType]:
    """Return the types of all values, initialisers included, by name. Raises BuildError where a type cannot be inferred."""
    onnx = require("onnx", "host")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BuildError(
            f"the types of the ONNX graph cannot be inferred: {error}; give a file that bmtas has exported, or --precision fp32"
        ) from None
    types = {i.name: ValueType(i.data_type, len(i.dims)) for i in inferred.graph.initializer}
    for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        tensor = info.type.tensor_type
        types[info.name] = ValueType(tensor.elem_type, len(tensor.shape.dim) if tensor.HasField("shape") else None)
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise BuildError(
                f"node {node.name!r} ({node.op_type}) holds a graph of its own; precisions need a flat one"
            )
        missing = [name for name in node.output if name and name not in types]
        if missing:
            raise BuildError(f"the type of {missing[0]!r}, given by node {node.name!r} ({node.op_type}), is unknown")
    return types


def constants_as_initialisers(model: ModelProto) -> None:
    """Turn Constant nodes that hold a tensor into initialisers, in place: those have no precision of their own."""
    graph = model.graph
    held = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None:
            held.append(node)
            initialiser = graph.initializer.add()
            initialiser.CopyFrom(value)
            initialiser.name = node.output[0]
    for node in held:
        graph.node.remove(node)


class Names:
    """Gives names that no node or value of the model has yet."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._taken: Counter[str] = Counter(node.name for node in graph.node)
        self._taken.update(name for node in graph.node for name in (*node.input, *node.output))
        self._taken.update(entry.name for entry in (*graph.initializer, *graph.input, *graph.output))

    def fresh(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_2`, `wanted_3`, ... if it is taken; from now on it is."""
        name, number = wanted, 1
        while self._taken[name]:
            number += 1
            name = f"{wanted}_{number}"
        self._taken[name] += 1
        return name


def consumers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that take each value, in graph order, each once; a graph output counts as no consumer."""
    taken: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            taken.setdefault(name, []).append(node)
    return taken


def sort_nodes(model: ModelProto) -> None:
    """Put each node behind those that it takes from, and otherwise leave the order, in place."""
    gives = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    old, placed = list(model.graph.node), dict[int, None]()

    def place(i: int) -> None:
        for name in old[i].input:
            if gives.get(name, i) != i and gives[name] not in placed:
                place(gives[name])
        placed[i] = None

    for i in range(len(old)):
        if i not in placed:
            place(i)
    del model.graph.node[:]
    model.graph.node.extend(old[i] for i in placed)


def tensor(name: str, values: Array, element: int) -> TensorProto:
    """Return an initialiser that holds `values`, whose NumPy type is the one of `element`."""
    onnx = require("onnx", "host")
    return onnx.TensorProto(
        name=name, data_type=element, dims=values.shape, raw_data=np.ascontiguousarray(values).tobytes()
    )


def checked(model: ModelProto) -> ModelProto:
    """Return the model. Raises BuildError if it is not valid ONNX, types and order of the nodes included."""
    onnx = require("onnx", "host")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"lowering the precision gave no valid ONNX model: {error}; export FP32, which leaves it as it is"
        ) from error
    return model


def session(model: ModelProto) -> OnnxSession:
    """Return a session of ONNX Runtime on the CPU for a model in memory."""
    return OnnxSession(model.SerializeToString())


def each(feeds: Iterable[Any], what: str) -> Iterator[Any]:
    """Yield the feeds. Raises UsageError after the last one if there was none; `what` says what they are needed for."""
    count = 0
    for feed in feeds:
        count += 1
        yield feed
    if not count:
        raise UsageError(f"{what} needs images, and none was given; give a folder or a data set with at least one")

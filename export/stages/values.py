"""What the values of an ONNX graph are, who makes them and which outputs need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bmtas.errors import BuildError, UsageError, nearest
from bmtas.extras import require
from export.sessions.protocol import TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto


def spec(info: ValueInfoProto) -> TensorSpec:
    """Return shape and type of a value; a free dimension is a text, `?` where it has no name."""
    helper = require("onnx", "host").helper
    tensor = info.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return TensorSpec(info.name, shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)


def specs(model: ModelProto) -> dict[str, TensorSpec]:
    """Return shape and type of every value of the graph, initialisers included. Raises BuildError if they contradict each other."""
    onnx = require("onnx", "host")
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise BuildError(
            f"the shapes of the ONNX graph do not fit together: {error}; give a file that bmtas has exported, as it was written"
        ) from None
    known = {v.name: spec(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    for initializer in graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type).name
        known[initializer.name] = TensorSpec(initializer.name, tuple(initializer.dims), dtype)
    return known


def producers(graph: GraphProto) -> dict[str, int]:
    """Return the index of the node that makes each value. Raises UsageError for nodes that hold graphs of their own."""
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UsageError(
                f"node {node.name!r} is a {node.op_type}, which holds a graph of its own; only graphs without control flow can be "
                "cut or merged, as `bmtas export` writes them"
            )
    return {value: index for index, node in enumerate(graph.node) for value in node.output if value}


def tasks_of_nodes(graph: GraphProto, tasks: Iterable[str] | None = None) -> list[tuple[str, ...]]:
    """Return, for each node, the outputs that need it, in the order of `tasks` (None: all outputs); () if none does."""
    made = producers(graph)
    order = [output.name for output in graph.output] if tasks is None else list(tasks)
    needs: list[list[str]] = [[] for _ in graph.node]
    for task in order:
        pending = [made[task]] if task in made else []
        seen = set(pending)
        while pending:
            index = pending.pop()
            needs[index].append(task)
            inputs = {made[value] for value in graph.node[index].input if value in made}
            pending += inputs - seen
            seen |= inputs
    return [tuple(names) for names in needs]


def constant_nodes(graph: GraphProto) -> set[int]:
    """Return the nodes whose outputs do not depend on any input: constants, and casts or dequantised weights of them."""
    varying = {value.name for value in graph.input} - {i.name for i in graph.initializer}
    constant = set()
    for index, node in enumerate(graph.node):
        if varying.isdisjoint(node.input):
            constant.add(index)
        else:
            varying.update(node.output)
    return constant


def require_outputs(graph: GraphProto, tasks: Iterable[str]) -> list[str]:
    """Return `tasks` as a list. Raises UsageError if it is empty, names one twice or one that is no output of the graph."""
    wanted, outputs = list(tasks), [output.name for output in graph.output]
    if not wanted:
        raise UsageError(f"no task is asked for; choose among {', '.join(outputs)}")
    for name in wanted:
        if name not in outputs:
            raise UsageError(f"the network has no task {name!r}; {nearest(name, outputs)}")
        if wanted.count(name) > 1:
            raise UsageError(f"the task {name!r} is asked for twice; name each task once")
    return wanted


def used(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield the names of all values that `nodes` read."""
    return (value for node in nodes for value in node.input if value)


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Put `nodes`, some of which may be the graph's own, in the place of all its nodes."""
    kept = []
    for node in nodes:  # copied first: removing a node from the graph takes its content away
        copied = type(node)()
        copied.CopyFrom(node)
        kept.append(copied)
    del graph.node[:]
    graph.node.extend(kept)

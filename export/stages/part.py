"""Some nodes of an ONNX graph as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmtas.errors import BuildError
from bmtas.extras import require
from export.sessions.protocol import TensorSpec
from export.stages.values import constant_nodes, producers, used

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


@dataclass(frozen=True)
class Part:
    """A model of some nodes, what it reads and what it gives."""

    model: ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def part(
    whole: ModelProto, indices: Iterable[int], outputs: Sequence[str], known: Mapping[str, TensorSpec], name: str
) -> Part:
    """Return the nodes `indices` of `whole` as a model with `outputs`; constants that they use come along, all else is an input.

    `known` are the specs of all values. Raises BuildError if that is no valid model.
    """
    onnx = require("onnx", "host")
    graph = whole.graph
    nodes = _with_constants(graph, indices)
    reads, made = list(dict.fromkeys(used(nodes))), {value for node in nodes for value in node.output}
    initializers = {i.name: i for i in graph.initializer}
    inputs = [known[v] for v in reads if v not in made and v not in initializers]
    given = [known[v] for v in outputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            name,
            [_info(value) for value in inputs],
            [_info(value) for value in given],
            [initializers[v] for v in reads if v in initializers],
        ),
        opset_imports=whole.opset_import,
        ir_version=whole.ir_version,
        producer_name=whole.producer_name,
    )
    return Part(checked(model, f"the part {name}"), tuple(inputs), tuple(given))


def checked(model: ModelProto, what: str) -> ModelProto:
    """Return `model`. Raises BuildError naming `what` if it is no valid ONNX model, shapes and order of nodes included."""
    onnx = require("onnx", "host")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"{what} is no valid ONNX model: {error}; export without --split-at-branches, --merge-branches and --tasks"
        ) from error
    return model


def _with_constants(graph: GraphProto, indices: Iterable[int]) -> list[NodeProto]:
    """Return the nodes `indices` and the constant ones before them, in graph order."""
    made, constants = producers(graph), constant_nodes(graph)
    kept = set(indices)
    pending = list(kept)
    while pending:
        node = graph.node[pending.pop()]
        new = {made[v] for v in node.input if v in made} & constants - kept
        kept |= new
        pending += new
    return [graph.node[i] for i in sorted(kept)]


def _info(value: TensorSpec) -> Any:
    helper = require("onnx", "host").helper
    return helper.make_tensor_value_info(value.name, _element(value.dtype), list(value.shape))


def _element(dtype: str) -> int:
    proto = require("onnx", "host").TensorProto
    return int(proto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())))

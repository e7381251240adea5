"""Cuts between quantised values: a float crosses, and each stage keeps whole pairs of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmtas.errors import BuildError
from bmtas.extras import require
from export.stages.values import producers, replace_nodes, tasks_of_nodes

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
Tasks = tuple[str, ...]


def keep_pairs_whole(graph: GraphProto) -> dict[str, Tasks]:
    """Let floats cross where stages read quantised values, in place; return which stage must make each of these floats.

    The stage that quantises a value also dequantises it, that float crosses, and the reading stage quantises it again before its
    own DequantizeLinear: a runtime makes integer kernels only where the pair stands in front of an operation. Quantising
    (q - z) s again gives q while its rounding stays far below s / 2: in float32, and in float16 for up to 8 bits. Raises
    BuildError for other scales, whose predictions would change.
    """
    _one_quantiser(graph)
    _own_dequantisers(graph)
    made, needs = producers(graph), tasks_of_nodes(graph)
    readers: dict[str, dict[Tasks, list[NodeProto]]] = {}
    for index, node in enumerate(graph.node):
        if needs[index] and _is_pair(graph, node, made) and needs[index] != needs[made[node.input[0]]]:
            readers.setdefault(node.input[0], {}).setdefault(needs[index], []).append(node)
    pinned, nodes = {}, []
    for index, node in enumerate(graph.node):
        nodes.append(node)
        if node.op_type != _QUANTISE or node.output[0] not in readers:
            continue
        value = node.output[0]
        _require_repeatable(graph, node)
        by_stage = readers[value]
        crossing = f"{value}@float"
        nodes.append(_copy(next(iter(by_stage.values()))[0], f"{node.name}@float", [value], crossing))
        pinned[crossing] = needs[index]
        for tasks, dequantisers in by_stage.items():
            again = f"{value}@{'+'.join(tasks)}"
            nodes.append(_copy(node, f"{node.name}@{'+'.join(tasks)}", [crossing], again))
            for dequantiser in dequantisers:
                dequantiser.input[0] = again
    replace_nodes(graph, nodes)
    return pinned


def _one_quantiser(graph: GraphProto) -> None:
    """Let equal quantisers of one value be one, in place: otherwise the value itself would cross, never quantised in the trunk."""
    first: dict[str, list[NodeProto]] = {}
    outputs = {output.name for output in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        if node.op_type != _QUANTISE or node.output[0] in outputs:
            continue
        same = next((q for q in first.get(node.input[0], []) if _same_constants(graph, q, node)), None)
        if same is None:
            first.setdefault(node.input[0], []).append(node)
        else:
            renamed[node.output[0]] = same.output[0]
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in renamed])


def _own_dequantisers(graph: GraphProto) -> None:
    """Give each stage that reads a dequantised activation a DequantizeLinear of its own, in place."""
    made, needs = producers(graph), tasks_of_nodes(graph)
    outputs = {output.name for output in graph.output}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if not _is_pair(graph, node, made):
            continue
        value = node.output[0]
        by_stage: dict[Tasks, list[NodeProto]] = {}
        for tasks, reader in zip(needs, graph.node, strict=True):
            if tasks and value in reader.input:
                by_stage.setdefault(tasks, []).append(reader)
        # The original stays what a task predicts, or goes with its first readers.
        for tasks, readers in list(by_stage.items())[0 if value in outputs else 1 :]:
            own = f"{value}@{'+'.join(tasks)}"
            nodes.append(_copy(node, f"{node.name}@{'+'.join(tasks)}", list(node.input[:1]), own))
            for reader in readers:
                reader.input[:] = [own if v == value else v for v in reader.input]
    replace_nodes(graph, nodes)


def _is_pair(graph: GraphProto, node: NodeProto, made: dict[str, int]) -> bool:
    """Return whether `node` dequantises what a QuantizeLinear of equal scale and zero point gave."""
    if node.op_type != _DEQUANTISE or node.input[0] not in made:
        return False
    quantiser = graph.node[made[node.input[0]]]
    return bool(quantiser.op_type == _QUANTISE) and _same_constants(graph, quantiser, node)


def _same_constants(graph: GraphProto, first: NodeProto, second: NodeProto) -> bool:
    """Return whether scale, zero point and axis of two (de)quantisers are equal."""
    axes = [[(a.name, a.i) for a in node.attribute if a.name in ("axis", "block_size")] for node in (first, second)]
    if len(first.input) != len(second.input) or sorted(axes[0]) != sorted(axes[1]):
        return False
    constants = {i.name: i for i in graph.initializer}
    pairs = zip(first.input[1:], second.input[1:], strict=True)
    return all(a == b or (a in constants and b in constants and _equal(constants[a], constants[b])) for a, b in pairs)


def _equal(a: object, b: object) -> bool:
    to_array = require("onnx", "host").numpy_helper.to_array
    first, second = to_array(a), to_array(b)
    return bool(first.dtype == second.dtype and first.shape == second.shape and (first == second).all())


def _copy(node: NodeProto, name: str, inputs: list[str], output: str) -> NodeProto:
    """Return a copy of a (de)quantiser with another name, first input and output."""
    copied = type(node)()
    copied.CopyFrom(node)
    copied.name, copied.output[0] = name, output
    copied.input[: len(inputs)] = inputs
    return copied


def _require_repeatable(graph: GraphProto, quantiser: NodeProto) -> None:
    """Raise BuildError where quantising a dequantised value again need not give the same."""
    proto = require("onnx", "host").TensorProto
    types = {i.name: i.data_type for i in graph.initializer}
    scale = types.get(quantiser.input[1])
    wide = len(quantiser.input) > 2 and types.get(quantiser.input[2]) in (proto.UINT16, proto.INT16)
    if scale == proto.FLOAT or (scale == proto.FLOAT16 and not wide):
        return
    found = "no constant" if scale is None else proto.DataType.Name(scale)
    raise BuildError(
        f"{quantiser.name!r} quantises a value that several branches read, and its scale is {found}: it could not cross between "
        "stages unchanged. Split the FP32, FP16 or BF16 network, or an INT8 one whose scales are float32 constants"
    )

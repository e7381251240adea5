"""Multiply-adds of an ONNX graph, in fvcore's convention: one multiply with its add counts 1, bias and activations count 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bmtas.errors import UsageError
from export.stages.values import producers, specs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shapes = Mapping[str, tuple[int | str, ...]]


def madds(model: ModelProto) -> int:
    """Return the multiply-adds of one pass: convolutions and matrix products, from the shapes that inference finds.

    Raises UsageError if a shape is not static or a node holds a graph of its own, BuildError if shapes contradict each other.
    """
    producers(model.graph)
    shapes = {name: value.shape for name, value in specs(model).items()}
    return sum(_COUNTS[node.op_type](node, shapes) for node in model.graph.node if node.op_type in _COUNTS)


def _shape(node: NodeProto, name: str, shapes: Shapes) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or not all(isinstance(n, int) for n in shape):
        raise UsageError(
            f"node {node.name!r}: the shape of {name!r} is {shape or 'unknown'}; multiply-adds are counted for static shapes: "
            "export without --dynamic"
        )
    return tuple(int(n) for n in shape)


def _conv(node: NodeProto, shapes: Shapes) -> int:
    # Each output element takes one weight of each input channel of its group and each place of the kernel.
    weight = _shape(node, node.input[1], shapes)
    return math.prod(_shape(node, node.output[0], shapes)) * math.prod(weight[1:])


def _transposed(node: NodeProto, shapes: Shapes) -> int:
    # Each input element is multiplied with all weights that lead from its channel: (Cin, Cout / groups, ...).
    weight = _shape(node, node.input[1], shapes)
    return math.prod(_shape(node, node.input[0], shapes)) * math.prod(weight[1:])


def _product(node: NodeProto, shapes: Shapes) -> int:
    first, transposed = _shape(node, node.input[0], shapes), any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(_shape(node, node.output[0], shapes)) * first[0 if transposed else -1]


_COUNTS: dict[str, Callable[[NodeProto, Mapping[str, tuple[int | str, ...]]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}

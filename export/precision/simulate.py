"""What a 16-bit graph computes, on a CPU that has no 16-bit units. Needs no torch.

Neither ONNX Runtime nor OpenVINO rounds the values between layers to FP16 on most CPUs: both compute such layers in FP32 one
after the other, so that a value of 100,000 passes through a graph in which it would be infinite on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bmtas.extras import require
from export.precision.graph import Names, checked, copied, module_of, tensor, value_types

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def simulated(model: ModelProto) -> ModelProto:
    """Return a 16-bit graph of `casts.lower` as one that every runtime computes in FP32, rounding where the 16-bit graph does.

    Each weight is what 16 bits hold of it, and each 16-bit value goes to 16 bits and back behind the node that gives it: what is
    too large becomes infinite. Sums inside a layer stay in FP32, as tensor cores have them. For proofs, not for use: it is slower
    than FP32. Raises BuildError if the graph's types cannot be inferred.
    """
    onnx = require("onnx", "host")
    float32, halves = onnx.TensorProto.FLOAT, (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    result = copied(model)
    types, names = value_types(result), Names(result)
    for initialiser in result.graph.initializer:
        if initialiser.data_type in halves:
            exact = onnx.numpy_helper.to_array(initialiser).astype(np.float32)
            initialiser.CopyFrom(tensor(initialiser.name, exact, float32))
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in halves:
                attribute.i = float32
        for i, name in enumerate(node.output):
            if name and types[name].element in halves:
                node.output[i] = names.fresh(f"{name}.exact")
                stored = names.fresh(f"{name}.stored")
                for source, target, to in ((node.output[i], stored, types[name].element), (stored, name, float32)):
                    cast = names.fresh(f"{module_of(node.name)}/Cast")
                    nodes.append(onnx.helper.make_node("Cast", [source], [target], name=cast, to=to))
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    return checked(onnx.shape_inference.infer_shapes(result))

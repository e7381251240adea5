"""A branched network for two tasks as ONNX, named as exported ones are and small enough to count by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
SHAPE = (1, 3, 16, 16)
PARTS = (
    "stem.semseg+depth",
    "layers.00.semseg+depth",
    "layers.01.semseg",
    "layers.01.depth",
    "heads.semseg",
    "heads.depth",
)
CONVOLUTIONS = 7  # the head of semseg has two


def branched(opset: int = 18, seed: int = 0, **replaced: Array) -> onnx.ModelProto:
    """A stem, a shared residual layer, then a branch and a head per task; `replaced` gives weights by name, `stem` and so on."""
    rng = np.random.default_rng(seed)
    shapes = {"stem": (8, 3, 3), "shared": (8, 8, 3), "left": (8, 8, 1), "right": (8, 8, 3)}
    shapes |= {"pooled": (4, 8, 1), "semseg": (4, 12, 1), "depth": (1, 8, 1)}
    values: dict[str, Array] = {}
    for name, (out, into, kernel) in shapes.items():
        weight = rng.normal(0, (into * kernel**2) ** -0.5, (out, into, kernel, kernel)).astype(np.float32)
        values[f"{name}.weight"] = replaced.get(name, weight)
        values[f"{name}.bias"] = rng.normal(0, 0.1, out).astype(np.float32)
    values |= {"zero": np.float32(0), "six": np.float32(6), "axes": np.array([2, 3]), "full": np.array([1, 4, 16, 16])}
    values |= {"scales": np.array([1, 1, 2, 2], np.float32), "small": np.array([1, 1, 8, 8])}

    def convolution(module: str, name: str, taken: str, stride: int = 1) -> onnx.NodeProto:
        kernel = shapes[name][2]
        return helper.make_node(
            "Conv",
            [taken, f"{name}.weight", f"{name}.bias"],
            [f"{name}.out"],
            name=f"{module}/Conv",
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
        )

    def node(module: str, kind: str, taken: list[str], given: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, taken, [given], name=f"{module}/{kind}", **attributes)

    shared, head = "layers.00.semseg+depth", "heads.semseg"
    resized = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    nodes = [
        convolution("stem.semseg+depth.0", "stem", "image", stride=2),
        node("stem.semseg+depth.1", "Clip", ["stem.out", "zero", "six"], "stem.clipped"),
        convolution(f"{shared}.conv", "shared", "stem.clipped"),
        node(shared, "Add", ["stem.clipped", "shared.out"], "added"),
        convolution("layers.01.semseg.conv", "left", "added"),
        node("layers.01.semseg", "Relu", ["left.out"], "left.positive"),
        convolution("layers.01.depth.conv", "right", "added"),
        node("layers.01.depth", "Relu", ["right.out"], "right.positive"),
        node(f"{head}.pool", "ReduceMean", ["left.positive", "axes"], "mean"),
        convolution(f"{head}.pool", "pooled", "mean"),
        node(f"{head}.pool", "Expand", ["pooled.out", "small"], "expanded"),
        node(head, "Concat", ["left.positive", "expanded"], "joined", axis=1),
        convolution(f"{head}.predict", "semseg", "joined"),
        node("network", "Resize", ["semseg.out", "", "", "full"], "semseg", **resized),
        node("heads.depth", "Resize", ["right.positive", "", "scales"], "wide", **resized),
        convolution("heads.depth.predict", "depth", "wide"),
        node("heads.depth", "Sigmoid", ["depth.out"], "depth"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [
            helper.make_tensor_value_info("semseg", TensorProto.FLOAT, (1, 4, 16, 16)),
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, (1, 1, 16, 16)),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, {"bmtas.tasks": "[]"})
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(count: int = 4, seed: int = 1) -> list[Mapping[str, Array]]:
    """Images of noise in [-1, 1], as feeds."""
    rng = np.random.default_rng(seed)
    return [{"image": rng.uniform(-1, 1, SHAPE).astype(np.float32)} for _ in range(count)]


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """All initialisers by name."""
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """All nodes by name, which must be unique."""
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node)
    return nodes


def interface(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Names and element types of the graph's inputs and outputs."""
    return [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)]


def run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of ONNX Runtime by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feed)), strict=True))

"""Small branched networks drawn by hand, for tests of merging."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array

BRANCHES = ("a", "b")
Feeds = dict[str, Array]


class Drawing:
    """An ONNX graph drawn by hand: random constants, one output per branch."""

    def __init__(self, channels: int = 4, size: int = 6) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._shape = [1, channels, size, size]

    def constant(self, name: str, *shape: int) -> str:
        self._constants[name] = self._rng.normal(size=shape).astype(np.float32)
        return name

    def numbers(self, name: str, values: Sequence[float], dtype: type[np.generic] = np.int64) -> str:
        self._constants[name] = np.array(values, dtype)
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def conv(self, name: str, x: str, out: int, per_group: int, kernel: int = 3, **attributes: Any) -> str:
        weight = self.constant(f"{name}.weight", out, per_group, kernel, kernel)
        bias = self.constant(f"{name}.bias", out)
        pads = [kernel // 2] * 4
        return self.node("Conv", name, x, weight, bias, pads=pads, **attributes)

    def model(self, outputs: Mapping[str, str]) -> ModelProto:
        nodes = [*self._nodes, *(helper.make_node("Identity", [v], [k], f"out/{k}") for k, v in outputs.items())]
        graph = helper.make_graph(
            nodes,
            "drawing",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
            [numpy_helper.from_array(v, k) for k, v in self._constants.items()],
        )
        drawn = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return onnx.shape_inference.infer_shapes(drawn)


def image(model: ModelProto, seed: int = 0) -> Feeds:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"image": np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)}


def require_same(model: ModelProto, changed: ModelProto) -> None:
    """In ONNX Runtime and in onnx's own evaluator, bit-close to the original in ONNX Runtime."""
    feeds = image(model)
    expected = OnnxSession(model.SerializeToString(), threads=1).run(feeds)
    evaluator = ReferenceEvaluator(changed)
    for found in (
        OnnxSession(changed.SerializeToString(), threads=1).run(feeds),
        dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True)),
    ):
        assert list(found) == list(expected)
        for name, reference in expected.items():
            np.testing.assert_allclose(found[name], reference, rtol=0, atol=1e-5 * max(1, np.abs(reference).max()))


def kinds(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def weight_of(model: ModelProto, name: str) -> list[int]:
    constants = {i.name: list(i.dims) for i in model.graph.initializer}
    return constants[node(model, name).input[1]]


def group_of(model: ModelProto, name: str) -> int:
    return next((a.i for a in node(model, name).attribute if a.name == "group"), 1)


def two_layers() -> ModelProto:
    """Branches a and b: a convolution on the common input, a depthwise one, then in the next layer a plain one with a residual."""
    drawing = Drawing()
    low, high = (drawing.numbers(name, value, np.float32) for name, value in (("low", 0), ("high", 6)))
    stem = drawing.conv("stem.a+b/Conv", "image", 4, 4)
    outputs = {}
    for b in BRANCHES:
        x = drawing.conv(f"layers.01.{b}.0/Conv", stem, 6, 4, kernel=1)
        x = drawing.node("Clip", f"layers.01.{b}.1/Clip", x, low, high)
        x = drawing.conv(f"layers.01.{b}.2/Conv", x, 6, 1, group=6)
        y = drawing.conv(f"layers.02.{b}.0/Conv", x, 6, 6)
        y = drawing.node("HardSwish", f"layers.02.{b}.1/HardSwish", y)
        outputs[b] = drawing.node("Add", f"layers.02.{b}/Add", x, y)
    return drawing.model(outputs)

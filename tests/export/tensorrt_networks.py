"""Two small networks of two tasks, written node by node: what engines are built from in tests without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bmtas.tasks import Task, TaskKind
from export.proof.references import References, collect
from export.sessions.protocol import Array

TASKS = (Task(name="depth", kind=TaskKind.DEPTH), Task(name="edge", kind=TaskKind.EDGE))
SHAPE = (1, 3, 8, 8)


def write_network(
    path: Path, precision: str = "fp32", *, seed: int = 0, head: float = 1.0, operator: str = "Relu"
) -> None:
    """Write a network of one layer and two heads; `head` scales the weights of the head `edge`.

    `fp16` has casts at its ends and half weights; `int8` the file of fp32 with its image quantised and dequantised.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "w.layer": rng.normal(0, 0.3, (4, 3, 3, 3)),
        "w.depth": rng.normal(0, 0.3, (1, 4, 1, 1)),
        "w.edge": rng.normal(0, 0.3, (1, 4, 1, 1)) * head,
    }
    kind = np.float16 if precision == "fp16" else np.float32
    initializers = [numpy_helper.from_array(value.astype(kind), name) for name, value in weights.items()]
    half = precision == "fp16"
    nodes = [helper.make_node("Cast", ["image"], ["x"], "in/Cast", to=TensorProto.FLOAT16)] if half else []
    if precision == "int8":
        initializers += [
            numpy_helper.from_array(np.float32(1 / 127), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], "in/QuantizeLinear"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], "in/DequantizeLinear"),
        ]
    first = "image" if precision == "fp32" else "x"
    nodes += [
        helper.make_node("Conv", [first, "w.layer"], ["y"], "layers.00.depth+edge/Conv", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["y"], ["z"], f"layers.00.depth+edge/{operator}"),
    ]
    for task in ("depth", "edge"):
        nodes.append(
            helper.make_node("Conv", ["z", f"w.{task}"], [f"h.{task}" if half else task], f"heads.{task}/Conv")
        )
        if half:
            nodes.append(helper.make_node("Cast", [f"h.{task}"], [task], f"out.{task}/Cast", to=TensorProto.FLOAT))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)
    outputs = [helper.make_tensor_value_info(t, TensorProto.FLOAT, (1, 1, 8, 8)) for t in ("depth", "edge")]
    graph = helper.make_graph(nodes, "network", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {
        "schema_version": 2,
        "precision": precision,
        "tasks": [{"name": t.name, "kind": t.kind.value, "classes": []} for t in TASKS],
    }
    helper.set_model_props(model, {f"bmtas.{key}": json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, str(path))


def references_of(path: Path, images: int = 2) -> References:
    """Return what ONNX's own reference implementation gives for the file."""
    evaluator = ReferenceEvaluator(str(path))

    def run(image: Array) -> dict[str, Array]:
        return dict(zip(("depth", "edge"), evaluator.run(None, {"image": image}), strict=True))

    rng = np.random.default_rng(5)
    feeds = [rng.uniform(-1, 1, SHAPE).astype(np.float32) for _ in range(images)]
    return collect(run, feeds, TASKS, final=False, made_by="onnx.reference")

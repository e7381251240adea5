"""Final predictions inside the graph: class ids, probabilities and unit normals, made in FP32 behind whatever precision came before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from bmtas.extras import require
from bmtas.tasks import Task, TaskKind

_SHORTEST = 1e-12
"""The length below which a normal is divided by this instead of it; PyTorch's `normalize` has the same."""
_CLASSES = (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION)
_MAPS = (TaskKind.BINARY, TaskKind.EDGE)


def with_predictions(model: Any, tasks: Sequence[Task]) -> Any:
    """Return a copy of `model` (ModelProto with raw FP32 outputs (N, channels, ...)) that gives final predictions of `tasks`.

    Class ids are int32 (N, ...); the other outputs keep their shape and type. `export.proof.units.final_prediction` is the same rule in
    NumPy. Raises onnx's ValidationError if the result is not valid.
    """
    onnx = require("onnx", "host")
    result = type(model)()
    result.CopyFrom(model)
    for task in tasks:
        if task.kind in _CLASSES or task.kind in _MAPS or task.kind is TaskKind.NORMALS:
            raw = f"raw.{task.name}"
            _rename(result.graph, task.name, raw)
            result.graph.node.extend(_nodes(onnx, result.graph, task, raw))
    onnx.checker.check_model(result, full_check=True)
    return result


def _nodes(onnx: Any, graph: Any, task: Task, raw: str) -> list[Any]:
    """Return the nodes from the value `raw` to the output of the task, whose entry in the graph is adapted."""

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return onnx.helper.make_node(
            operator, inputs, [output], name=f"heads.{task.name}/{operator}.final", **attributes
        )

    name = task.name
    if task.kind in _CLASSES:
        output = next(value for value in graph.output if value.name == name)
        output.type.tensor_type.elem_type = onnx.TensorProto.INT32
        kept = [copy.deepcopy(d) for i, d in enumerate(output.type.tensor_type.shape.dim) if i != 1]
        del output.type.tensor_type.shape.dim[:]
        output.type.tensor_type.shape.dim.extend(kept)
        ids = f"ids.{name}"
        return [
            node("ArgMax", [raw], ids, axis=1, keepdims=0),
            node("Cast", [ids], name, to=onnx.TensorProto.INT32),
        ]
    if task.kind in _MAPS:
        return [node("Sigmoid", [raw], name)]
    axis, shortest, length = (f"{part}.{name}" for part in ("axis", "shortest", "length"))
    graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), axis),
            onnx.numpy_helper.from_array(np.array(_SHORTEST, dtype=np.float32), shortest),
        ]
    )
    return [
        node("ReduceL2", [raw, axis], length, keepdims=1),
        node("Max", [length, shortest], f"{length}.safe"),
        node("Div", [raw, f"{length}.safe"], name),
    ]


def _rename(graph: Any, old: str, new: str) -> None:
    """Give the value `old` another name wherever it is made and read; the graph's output keeps its entry."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]

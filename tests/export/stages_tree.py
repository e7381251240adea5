"""The tree that the tests of splitting share, and ways to run a graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task, TaskKind
from export.onnx_file import write_onnx
from export.sessions.protocol import Array
from export.stages.cut import Stage

A, B, C, D, E = NAMES = ("semseg", "parts", "depth", "normals", "scene")
TASKS = (
    Task(name=A, kind=TaskKind.SEGMENTATION, classes=("wall", "floor", "chair")),
    Task(name=B, kind=TaskKind.SEGMENTATION, classes=("head", "arm")),
    Task(name=C, kind=TaskKind.DEPTH),
    Task(name=D, kind=TaskKind.NORMALS),
    Task(name=E, kind=TaskKind.CLASSIFICATION, classes=("office", "kitchen")),
)
# Six layers: shared by all, then {A B} and {C D E}, then C alone, then everybody.
TREE = (
    *[(NAMES,)] * 2,
    *[((A, B), (C, D, E))] * 2,
    ((A, B), (C,), (D, E)),
    ((A,), (B,), (C,), (D,), (E,)),
)
SIZE = (64, 64)
STAGES = [NAMES, (C, D, E), (A, B), (D, E), (A,), (B,), (C,), (D,), (E,)]
SUBSETS = [s for k in range(1, 6) for s in itertools.combinations(NAMES, k)]

Feeds = dict[str, Array]


def network_of(architecture: Architecture, tasks: Sequence[Task]) -> GraphNetwork:
    """A network whose normalisations are not those of a fresh one: their biases reach the file."""
    torch.manual_seed(0)
    network = build_network(architecture, tasks).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def exported(network: GraphNetwork, architecture: Architecture, tasks: Sequence[Task], path: Path) -> ModelProto:
    write_onnx(network, path, architecture=architecture, tasks=tasks, size=SIZE, costs={"madds": 1.0})
    return onnx.load(str(path))


def image(seed: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, *SIZE)).astype(np.float32)


def plain(model: ModelProto, feeds: Feeds) -> Feeds:
    """ONNX Runtime without its optimisations of memory layout, which round differently from graph to graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def by_reference(model: ModelProto, feeds: Feeds) -> Feeds:
    """onnx's own evaluator, a second opinion on what a graph means."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def staged(stages: Sequence[Stage], feeds: Feeds, run: Callable[[ModelProto, Feeds], Feeds]) -> Feeds:
    values = dict(feeds)
    for stage in stages:
        values |= run(stage.model, {value.name: values[value.name] for value in stage.inputs})
    return values


def same(first: Feeds, second: Feeds, tasks: Sequence[str]) -> list[bool]:
    return [bool(np.array_equal(first[task], second[task])) for task in tasks]


def small_model(nodes: list[Any], scale: Array | None = None, **constants: Array) -> ModelProto:
    """A model of (1, 2, 3, 3) with the outputs a and b."""
    values = {"w": np.ones((1, 2, 3, 3), np.float32), **constants}
    if scale is not None:
        values |= {"scale": scale, "zero": np.array(3, np.uint8)}
    float_type = TensorProto.FLOAT if scale is None else helper.np_dtype_to_tensor_dtype(scale.dtype)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", float_type, [1, 2, 3, 3])],
        [helper.make_tensor_value_info(name, float_type, [1, 2, 3, 3]) for name in ("a", "b")],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tree_network() -> GraphNetwork:
    """The network of the tree."""
    return network_of(BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=TREE), TASKS)


def tree_model(path: Path) -> ModelProto:
    """The ONNX model of the tree, written to `path`."""
    return exported(tree_network(), BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=TREE), TASKS, path)

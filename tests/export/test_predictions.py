"""Final predictions made inside the graph, for all kinds at once, against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from bmtas.tasks import Task, TaskKind
from export.predictions import with_predictions

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c")),
    Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("a", "b")),
    Task(name="edge", kind=TaskKind.EDGE),
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="depth", kind=TaskKind.DEPTH),
)
SHAPES = {"semseg": (1, 3, 2, 4), "scene": (1, 2), "edge": (1, 1, 2, 4), "normals": (1, 3, 2, 4), "depth": (1, 1, 2, 4)}


def identity(shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """One input per task, given back as it is, and `edge` read once more by `depth`."""
    nodes = [
        onnx.helper.make_node("Identity", [f"in.{t}"], [t], name=f"heads.{t}/Identity") for t in shapes if t != "depth"
    ]
    nodes.append(onnx.helper.make_node("Add", ["in.depth", "edge"], ["depth"], name="heads.depth/Add"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "identity",
        [info(f"in.{t}", onnx.TensorProto.FLOAT, shape) for t, shape in shapes.items()],
        [info(t, onnx.TensorProto.FLOAT, shape) for t, shape in shapes.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def test_all_kinds_follow_their_definitions_and_inner_readers_keep_the_raw_values() -> None:
    rng = np.random.default_rng(3)
    feeds = {f"in.{task}": rng.normal(size=shape).astype(np.float32) for task, shape in SHAPES.items()}
    feeds["in.normals"][0, :, 0, 0] = 0  # no direction at all must not become NaN
    raw = identity(SHAPES)
    before = raw.SerializeToString()
    model = with_predictions(raw, TASKS)
    assert raw.SerializeToString() == before
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == list(SHAPES)
    found = dict(zip(SHAPES, session.run(None, feeds), strict=True))
    assert found["semseg"].dtype == found["scene"].dtype == np.int32
    np.testing.assert_array_equal(found["semseg"], feeds["in.semseg"].argmax(1))
    np.testing.assert_array_equal(found["scene"], feeds["in.scene"].argmax(1))
    np.testing.assert_allclose(found["edge"], 1 / (1 + np.exp(-feeds["in.edge"])), rtol=1e-6)
    np.testing.assert_allclose(found["depth"], feeds["in.depth"] + feeds["in.edge"], rtol=1e-6)
    lengths = np.linalg.norm(found["normals"], axis=1)
    assert lengths[0, 0, 0] == 0
    np.testing.assert_allclose(lengths.ravel()[1:], 1, rtol=1e-6)
    np.testing.assert_allclose(
        found["normals"][0, :, 1, 2],
        feeds["in.normals"][0, :, 1, 2] / np.linalg.norm(feeds["in.normals"][0, :, 1, 2]),
        rtol=1e-6,
    )


def test_shapes_and_types_of_the_outputs_are_declared() -> None:
    model = with_predictions(identity(SHAPES), TASKS)
    declared = {
        o.name: (o.type.tensor_type.elem_type, [d.dim_value for d in o.type.tensor_type.shape.dim])
        for o in model.graph.output
    }
    floats, ids = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    assert declared == {
        "semseg": (ids, [1, 2, 4]),
        "scene": (ids, [1]),
        "edge": (floats, [1, 1, 2, 4]),
        "normals": (floats, [1, 3, 2, 4]),
        "depth": (floats, [1, 1, 2, 4]),
    }


@pytest.mark.parametrize("kind", [TaskKind.DEPTH, TaskKind.REGRESSION])
def test_what_is_final_already_stays_as_it_is(kind: TaskKind) -> None:
    raw = identity({"edge": (1, 1, 2, 4), "depth": (1, 1, 2, 4)})
    model = with_predictions(raw, (Task(name="depth", kind=kind),))
    assert model.SerializeToString() == raw.SerializeToString()

"""OpenVINO runs what was asked for: counted by hand on networks of four convolutions, of which some are in 8 bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bmtas.errors import BuildError, UsageError
from export.metadata import set_metadata
from export.sessions.openvino import OpenVinoSession

CHANNELS = 16


def network(eight: int, convolutions: int = 4) -> onnx.ModelProto:
    """Convolutions one after the other, ReLU between them; the first `eight` take Q/DQ on both sides."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    weights += [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    weights += [
        numpy_helper.from_array(np.full(CHANNELS, 0.01, np.float32), "w_scale"),
        numpy_helper.from_array(np.zeros(CHANNELS, np.int8), "w_zero"),
    ]
    value = "image"
    for i in range(convolutions):
        if i < eight:
            shape = (CHANNELS, CHANNELS, 3, 3)
            weights.append(numpy_helper.from_array(rng.integers(-127, 127, shape).astype(np.int8), f"w{i}_q"))
            nodes += [
                helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"q{i}"]),
                helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"d{i}"]),
                helper.make_node("DequantizeLinear", [f"w{i}_q", "w_scale", "w_zero"], [f"w{i}"], axis=0),
            ]
            value = f"d{i}"
        else:
            weights.append(
                numpy_helper.from_array(rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32), f"w{i}")
            )
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value = f"r{i}"
    shape = [1, CHANNELS, 16, 16]
    nodes.append(helper.make_node("Clip", [value], ["out"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def in_8_bits(session: OpenVinoSession) -> int:
    return sum(n for name, n in session.executed.items() if name in ("u8", "i8"))


@pytest.mark.parametrize("eight", [1, 2, 4])
def test_a_network_of_which_some_was_kept_in_fp32_is_int8(eight: int) -> None:
    content = network(eight).SerializeToString()
    session = OpenVinoSession(content, "int8", int8_share=eight / 4)
    assert (in_8_bits(session), sum(session.executed.values())) == (eight, 4)


def test_the_share_is_read_from_the_metadata_and_is_all_where_nothing_is_told() -> None:
    model = network(1)
    with pytest.raises(BuildError, match="for 4 of 4 convolutions, but 1 run so") as caught:
        OpenVinoSession(model.SerializeToString(), "int8")
    assert "no fast units" not in str(caught.value)
    set_metadata(model, {"precision": "int8", "int8_share": 0.25})
    assert in_8_bits(OpenVinoSession(model.SerializeToString())) == 1
    with pytest.raises(BuildError, match="for 3 of 4 convolutions"):
        OpenVinoSession(model.SerializeToString(), int8_share=0.75)  # what the caller knows goes first


def test_only_where_none_runs_in_8_bits_the_device_is_said_to_have_no_units_for_it() -> None:
    with pytest.raises(BuildError, match=r"for 2 of 4 convolutions, but 0 run so .*no fast units"):
        OpenVinoSession(network(0).SerializeToString(), "int8", int8_share=0.5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_in_which_nothing_can_be_counted_is_not_believed(precision: str) -> None:
    with pytest.raises(BuildError, match=f"{precision} cannot be told"):
        OpenVinoSession(network(0, convolutions=0).SerializeToString(), precision)


@pytest.mark.parametrize("share", ["half", 0, 1.5, -0.5, True, None])
def test_a_share_that_is_none_is_refused(share: object) -> None:
    model = network(1)
    set_metadata(model, {"precision": "int8", "int8_share": share})
    with pytest.raises(UsageError, match="no share of convolutions"):
        OpenVinoSession(model.SerializeToString())


def test_outputs_go_by_the_names_of_the_file() -> None:
    model = network(0)
    out = model.graph.output[0]
    nodes = [
        helper.make_node("ArgMax", ["r3"], ["ids.out"], axis=1, keepdims=0),
        helper.make_node("Cast", ["ids.out"], ["labels"], to=TensorProto.INT32),
    ]
    model.graph.node.extend(nodes)
    model.graph.output.insert(0, helper.make_tensor_value_info("labels", TensorProto.INT32, [1, 16, 16]))
    onnx.checker.check_model(model, full_check=True)
    session = OpenVinoSession(model.SerializeToString())
    found = session(np.random.default_rng(1).normal(size=(1, CHANNELS, 16, 16)).astype(np.float32))
    assert session.outputs == list(found) == ["labels", out.name]
    # OpenVINO has compiled ArgMax and Cast into one node, which has both of their names.
    np.testing.assert_array_equal(found["labels"], found["out"].argmax(axis=1))

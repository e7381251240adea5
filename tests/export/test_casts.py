"""16-bit graphs are valid, hold what was asked in 16 bits and the rest in FP32, and compute the same within rounding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bmtas.errors import BuildError, UsageError
from export.precision.casts import lower, unfit_weights
from export.precision.simulate import simulated
from tests.export.branched import branched, by_name, feeds, interface, run, weights

FLOAT, HALF, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return found | {i.name: i.data_type for i in inferred.initializer}


def casts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Cast"]


@pytest.mark.parametrize(("precision", "element", "opset"), [("fp16", HALF, 18), ("bf16", BF16, 22)])
def test_values_and_weights_are_16_bits_and_inputs_and_outputs_are_not(
    precision: str, element: int, opset: int
) -> None:
    model = branched()
    before = model.SerializeToString()
    lowered = lower(model, precision)
    assert model.SerializeToString() == before
    assert interface(lowered) == interface(model)
    assert lowered.opset_import[0].version == opset
    assert lowered.ir_version == 10
    assert [p.key for p in lowered.metadata_props] == ["bmtas.tasks"]
    found, nodes = types(lowered), by_name(lowered)
    convolutions = [node for node in lowered.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7
    assert {found[name] for node in convolutions for name in (*node.input, *node.output)} == {element}
    # The image; what ReduceMean takes and gives; semseg before it is resized; depth behind its Sigmoid.
    assert len(casts(lowered)) == 5
    assert {found[name] for name in nodes["heads.semseg.pool/ReduceMean"].output} == {FLOAT}
    resized = nodes["network/Resize"]  # gives the output itself, so it is in FP32 and takes a value that was cast
    assert found[resized.input[0]] == found[resized.output[0]] == FLOAT
    assert {node.name.split("/")[0] for node in casts(lowered)} <= {n.name.split("/")[0] for n in model.graph.node}


def test_what_sizes_a_resize_is_never_cast() -> None:
    model = branched()
    for precision in ("fp16", "bf16"):
        lowered = lower(model, precision)
        nodes, found = by_name(lowered), types(lowered)
        assert list(nodes["heads.depth/Resize"].input)[1:] == ["", "scales"]
        assert list(nodes["network/Resize"].input)[1:] == ["", "", "full"]
        assert (found["scales"], found["full"]) == (FLOAT, TensorProto.INT64)


def test_fp16_computes_the_same_within_rounding_in_two_runtimes() -> None:
    model, feed = branched(), feeds(1)[0]
    lowered = lower(model, "fp16")
    exact, got = run(model, feed), run(lowered, feed)
    reference = dict(zip(exact, ReferenceEvaluator(lowered).run(None, dict(feed)), strict=True))
    for task, expected in exact.items():
        assert got[task].dtype == np.float32
        # Seven roundings of relative size 2^-11 in a row, and sums of some 70 products.
        assert np.abs(got[task] - expected).max() < 2**-8 * np.abs(expected).max()
        assert np.abs(got[task] - expected).max() > 0
        assert np.abs(reference[task] - expected).max() < 2**-8 * np.abs(expected).max()


def test_the_simulation_rounds_where_the_16_bit_graph_does() -> None:
    model, feed = branched(), feeds(1)[0]
    for precision, digits in (("fp16", 11), ("bf16", 8)):
        lowered = lower(model, precision)
        got = run(simulated(lowered), feed)
        exact = run(model, feed)
        reference = dict(zip(exact, ReferenceEvaluator(lowered).run(None, dict(feed)), strict=True))
        for task, expected in exact.items():
            largest = np.abs(expected).max()
            assert 0.02 * 2**-digits * largest < np.abs(got[task] - expected).max() < 8 * 2**-digits * largest
            assert np.abs(got[task] - reference[task]).max() < 4 * 2**-digits * largest
    stem = shown(lower(model, "bf16"), "stem.out")
    by_hand = shown(model, "stem.out")
    # The first layer by hand: image and weights rounded to 8 digits, summed in FP32, rounded again.
    rounded = {"image": to_bf16(feed["image"])}
    held = {i.name: i for i in by_hand.graph.initializer}
    for name in ("stem.weight", "stem.bias"):
        held[name].CopyFrom(numpy_helper.from_array(to_bf16(weights(model)[name]), name))
    summed = run(by_hand, rounded)["stem.out"]
    assert (run(simulated(stem), feed)["seen"] == to_bf16(summed)).mean() > 0.99  # sums at a tie may go either way


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest numbers of 8 digits, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).reshape(values.shape)


def shown(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The model with a value in between as the only output: by its own name if it is FP32, else as `seen`, cast to FP32."""
    model.graph.node.append(helper.make_node("Cast", [value], ["seen"], name="network/Cast_seen", to=FLOAT))
    del model.graph.output[:]
    name = "seen" if types(model)[value] != FLOAT else value
    model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    return model


def test_bf16_weights_are_the_nearest_ones_and_openvino_runs_the_graph() -> None:
    model, feed = branched(), feeds(1)[0]
    lowered = lower(model, "bf16")
    for name, exact in weights(model).items():
        held = next((i for i in lowered.graph.initializer if i.name == f"{name}.bf16"), None)
        if held is None:
            continue
        bits = np.frombuffer(held.raw_data, np.uint16).reshape(exact.shape)
        assert ((bits.astype(np.uint32) << 16) == to_bf16(exact).view(np.uint32)).all()
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    loaded = core.read_model(lowered.SerializeToString(), b"")
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled({"image": feed["image"]})
    for task, expected in run(model, feed).items():
        worst = np.abs(outputs[task] - expected).max()
        assert 0 < worst < 2**-5 * np.abs(expected).max()


def test_kept_modules_stay_in_fp32_and_each_value_is_cast_once() -> None:
    model = branched()
    lowered = lower(model, "fp16", keep=["layers.01", "heads.depth.predict", "heads.semseg/Concat"])
    found, nodes = types(lowered), by_name(lowered)
    for name in ("layers.01.semseg.conv/Conv", "layers.01.depth.conv/Conv", "heads.depth.predict/Conv"):
        assert {found[value] for value in (*nodes[name].input, *nodes[name].output)} == {FLOAT}
    # `added` is taken by both convolutions in FP32: one cast serves both.
    assert nodes["layers.01.semseg.conv/Conv"].input[0] == nodes["layers.01.depth.conv/Conv"].input[0]
    assert len({node.input[0] for node in casts(lowered)}) == len(casts(lowered))
    assert found[nodes["stem.semseg+depth.0/Conv"].output[0]] == HALF
    assert found[nodes["heads.semseg/Concat"].output[0]] == FLOAT


def test_weights_that_fp16_cannot_hold_keep_their_layer() -> None:
    rng = np.random.default_rng(3)
    large = rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
    large[0, 0, 0, 0] = 1e5  # above 65504
    tiny = np.full((8, 8, 1, 1), 1e-9, np.float32)  # below half of 2^-24: all of it becomes 0
    few = rng.normal(size=(1, 8, 1, 1)).astype(np.float32)
    few[0, 0] = 1e-9  # one weight of eight is lost, which changes nothing
    model = branched(shared=large, left=tiny, depth=few)
    assert unfit_weights(model, "fp16") == {
        "layers.00.semseg+depth.conv/Conv": np.float32(1e5),
        "layers.01.semseg.conv/Conv": np.float32(1e-9),
    }
    assert unfit_weights(model, "bf16") == {}
    held = weights(lower(model, "fp16"))
    assert {"shared.weight", "left.weight"} <= held.keys()
    assert "depth.weight" not in held
    assert np.isfinite(held["depth.weight.fp16"]).all()


def predictions() -> onnx.ModelProto:
    """A camera's pixels, normalised in the graph -> a convolution 1x1 -> unit vectors."""
    values = {"scale": np.float32(1 / 127.5), "offset": np.float32(-1), "axis": np.array([1])}
    values |= {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "least": np.float32(1e-12)}
    values |= {"most": np.float32(3e38), "shape": np.array([1, 3, 1, 256])}
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], name="network/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["numbers"], name="network/Cast", to=FLOAT),
        helper.make_node("Mul", ["numbers", "scale"], ["scaled"], name="network/Mul"),
        helper.make_node("Add", ["scaled", "offset"], ["normal"], name="network/Add"),
        helper.make_node("Conv", ["normal", "w"], ["raw"], name="heads.normals/Conv"),
        helper.make_node("Clip", ["raw", "", "most"], ["bounded"], name="heads.normals/Clip"),
        helper.make_node("ReduceL2", ["bounded", "axis"], ["length"], name="network/ReduceL2"),
        helper.make_node("Clip", ["length", "least"], ["positive"], name="network/Clip"),
        helper.make_node("Expand", ["positive", "shape"], ["lengths"], name="network/Expand"),
        helper.make_node("Div", ["bounded", "lengths"], ["normals"], name="network/Div"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 1, 256, 3))],
        [helper.make_tensor_value_info("normals", FLOAT, (1, 3, 1, 256))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_pixels_are_scaled_and_vectors_divided_in_fp32(precision: str) -> None:
    model = predictions()
    lowered = lower(model, precision)
    found, nodes = types(lowered), by_name(lowered)
    exact = [name for name, node in nodes.items() if found[node.output[0]] == FLOAT and node.op_type != "Cast"]
    assert exact == [f"network/{kind}" for kind in ("Mul", "Add", "ReduceL2", "Clip", "Expand", "Div")]
    assert found[nodes["heads.normals/Clip"].output[0]] != FLOAT
    # The image in front of the convolution, and what comes out of it, once for both that take it.
    assert len(casts(lowered)) == 1 + 2
    levels = np.arange(256, dtype=np.uint8)
    image = np.stack([levels, levels[::-1], np.roll(levels, 9)], axis=-1)[None, None]
    normals = run(simulated(lowered), {"image": image})["normals"]
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones((1, 1, 256)), abs=1e-6)
    numbers = image.transpose(0, 3, 1, 2).astype(np.float64) / 127.5 - 1
    expected = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
    assert np.abs(normals - expected).max() < (2**-10 if precision == "fp16" else 2**-7)


def quantised(scale: float, values: list[int], kind: int = TensorProto.INT8) -> onnx.ModelProto:
    """A convolution 1x1 of one channel per value, whose weights come in 8 bits."""
    count = len(values)
    whole = np.array(values, np.int8 if kind == TensorProto.INT8 else np.int32)
    initialisers = {"w": whole.reshape(count, 1, 1, 1), "s": np.full(count, scale, np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["back"], name="layers.00.a/DequantizeLinear", axis=0),
        helper.make_node("Conv", ["image", "back"], ["a"], name="layers.00.a/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", FLOAT, (1, 1, 2, 2))],
        [helper.make_tensor_value_info("a", FLOAT, (1, count, 2, 2))],
        [numpy_helper.from_array(v, k) for k, v in initialisers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_scales_are_rounded_up_and_the_weights_rounded_anew() -> None:
    # 2^-24 = 5.96e-8 is the smallest number of FP16; 127e-8 is 21.3 of it, -64e-8 is -10.7, 1e-8 is 0.2.
    lowered = lower(quantised(1e-8, [127, -64, 1]), "fp16")
    assert lowered.opset_import[0].version == 19
    held = weights(lowered)
    assert held["s.fp16"].dtype == np.float16
    assert (held["s.fp16"] == np.float16(2**-24)).all()
    assert held["w.fp16"].ravel().tolist() == [21, -11, 0]
    # 0.1 lies between 0.09998 and 0.10004 in FP16; weights as wide as that stay what they were.
    held = weights(lower(quantised(0.1, [127, -64, 1]), "fp16"))
    assert held["s.fp16"][0] == np.float16(0.10003662109375)
    assert held["w.fp16"].ravel().tolist() == [127, -64, 1]


def test_scales_that_fp16_cannot_hold_stay_in_fp32() -> None:
    for model in (quantised(1e6, [127, -64, 1]), quantised(1e-8, [127, -64, 1], TensorProto.INT32)):
        lowered = lower(model, "fp16")
        assert weights(lowered)["s"].dtype == np.float32
        assert Counter(node.op_type for node in lowered.graph.node)["Cast"] == 3


def test_opset_19_is_left_as_it_is_and_bf16_takes_22() -> None:
    assert lower(branched(opset=20), "fp16").opset_import[0].version == 20
    assert lower(branched(opset=20), "bf16").opset_import[0].version == 22


def test_what_cannot_be_lowered_is_refused() -> None:
    model = branched()
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        lower(model, "fp61")
    with pytest.raises(UsageError, match=r"no node or module is called 'heads\.parts'; .*heads\.depth"):
        lower(model, "fp16", keep=["heads.parts"])
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["zero"], ["x"], name="a/If", then_branch=inner, else_branch=inner))
    with pytest.raises(BuildError):
        lower(model, "fp16")

"""INT8 graphs: ranges from images, grids by hand, who is in 8 bits and who is not, and the same numbers in two runtimes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from bmtas.errors import BuildError, UsageError
from export.precision.quantise import Ranges, calibrate, quantise, weighted_parts
from tests.export.branched import CONVOLUTIONS, PARTS, branched, by_name, feeds, interface, run, weights

CONV_NAMES = ("stem", "shared", "left", "right", "pooled", "semseg", "depth")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return branched()


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto) -> Ranges:
    return calibrate(model, iter(feeds(4)))


def sources(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def is_quantised(model: onnx.ModelProto, node: onnx.NodeProto) -> list[bool]:
    """Of each input of a node that is no bias, whether it comes out of a Q/DQ pair or 8-bit weights."""
    gives = sources(model)
    return [name in gives and gives[name].op_type == "DequantizeLinear" for name in list(node.input)[:2]]


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def test_minmax_ranges_are_the_extremes_over_all_images(model: onnx.ModelProto, ranges: Ranges) -> None:
    images = np.concatenate([feed["image"] for feed in feeds(4)])
    assert (ranges.method, ranges.images) == ("minmax", 4)
    assert ranges.values["image"] == (images.min(), images.max())
    outputs = [run(model, feed)["semseg"] for feed in feeds(4)]
    # `semseg` is a Resize of this value, which by interpolation never leaves its range.
    low, high = ranges.values["semseg.out"]
    assert low <= min(o.min() for o in outputs) < max(o.max() for o in outputs) <= high
    assert ranges.values["stem.clipped"][0] == 0


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_the_other_methods_cut_the_rare_extremes_off(model: onnx.ModelProto, ranges: Ranges, method: str) -> None:
    few = feeds(2)
    image = np.array(few[0]["image"])
    image[0, 0, 0, 0] = 50  # one pixel of 1536
    few[0] = {"image": image}
    cut = calibrate(model, few, method)
    assert (cut.method, cut.images) == (method, 2)
    assert cut.values.keys() == ranges.values.keys()
    low, high = cut.values["image"]
    assert -1 <= low < -0.9
    # The edge of a bin: entropy cuts [-50, 50] into 256, percentile into 2048, of which the last one holds that pixel.
    assert high < 50
    if method == "entropy":
        assert high / (100 / 256) == pytest.approx(round(high / (100 / 256)))
    else:
        assert high == pytest.approx(50 - 100 / 2048)


def test_calibration_without_images_or_with_an_unknown_method_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="calibrating INT8 needs images"):
        calibrate(model, [])
    with pytest.raises(UsageError, match="did you mean 'minmax'"):
        calibrate(model, feeds(1), "minmx")


@pytest.mark.parametrize("style", ["cpu", "tensorrt"])
def test_weights_lie_on_a_grid_per_channel(model: onnx.ModelProto, ranges: Ranges, style: str) -> None:
    held = weights(quantise(model, ranges, style))
    for name in CONV_NAMES:
        exact = weights(model)[f"{name}.weight"]
        whole, scale = held[f"{name}.weight_quantized"], held[f"{name}.weight_scale"]
        assert whole.dtype == np.int8
        assert scale == pytest.approx(np.abs(exact).max(axis=(1, 2, 3)) / 127, rel=1e-5)
        error = np.abs(whole * scale[:, None, None, None] - exact)
        assert (error <= 0.5001 * scale[:, None, None, None]).all()
    narrow = weights(quantise(model, ranges, style, reduce_range=True))
    assert all(np.abs(narrow[f"{name}.weight_quantized"]).max() == 64 for name in CONV_NAMES)


def test_the_cpu_style_is_uint8_with_a_zero_point_and_an_int32_bias(model: onnx.ModelProto, ranges: Ranges) -> None:
    held = weights(quantise(model, ranges, "cpu"))
    low, high = ranges.values["image"]
    assert held["image_scale"] == pytest.approx((high - low) / 255, rel=1e-5)
    assert held["image_zero_point"].dtype == np.uint8
    assert int(held["image_zero_point"]) == round(-low / ((high - low) / 255))
    assert held["stem.bias_quantized"].dtype == np.int32
    assert held["stem.bias_quantized"] * held["stem.bias_quantized_scale"] == pytest.approx(
        weights(model)["stem.bias"], abs=1e-4
    )


def test_the_cpu_style_lets_onnx_runtime_compute_in_8_bits(
    model: onnx.ModelProto, ranges: Ranges, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    content = quantise(model, ranges, "cpu").SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    # Both last layers give FP32, and what is pooled is spread in FP32 before it is joined.
    assert found["QLinearConv"] == CONVOLUTIONS - 3
    assert found["QLinearAdd"] == found["QLinearConcat"] == 1
    assert found["Clip"] == found["Relu"] == 0


def test_the_tensorrt_style_has_no_zero_point_and_pairs_of_its_own(model: onnx.ModelProto, ranges: Ranges) -> None:
    result = quantise(model, ranges, "tensorrt")
    held, gives = weights(result), sources(result)
    zero_points = [held[node.input[2]] for node in result.graph.node if node.op_type.endswith("izeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zero_points)
    assert held["image_scale"] == pytest.approx(max(abs(v) for v in ranges.values["image"]) / 127, rel=1e-5)
    assert all(is_quantised(result, node) == [True, True] for node in convolutions(result))
    assert all(held[node.input[2]].dtype == np.float32 for node in convolutions(result))
    uses = Counter(name for node in result.graph.node for name in node.input)
    pairs = [node for node in result.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in gives]
    assert all(uses[node.output[0]] == uses[node.input[0]] == 1 for node in pairs)
    # Seven convolutions take one pair each, the addition one for the branch that passes the convolution by.
    assert len(pairs) == CONVOLUTIONS + 1
    add = by_name(result)["layers.00.semseg+depth/Add"]
    assert is_quantised(result, add) == [True, False]
    assert gives[add.input[1]].op_type == "Conv"


@pytest.mark.parametrize("style", ["cpu", "tensorrt"])
def test_two_runtimes_agree_and_are_near_fp32(ranges: Ranges, style: str) -> None:
    model, feed = branched(opset=20), feeds(4)[2]  # the reference has no Q/DQ below opset 19
    before = model.SerializeToString()
    result = quantise(model, ranges, style)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert interface(result) == interface(model)
    assert [(p.key, p.value) for p in result.metadata_props] == [("bmtas.tasks", "[]")]
    exact, got = run(model, feed), run(result, feed)
    reference = dict(zip(exact, ReferenceEvaluator(result).run(None, dict(feed)), strict=True))
    for task, expected in exact.items():
        size = expected.std()
        assert 0.001 < np.sqrt(((got[task] - expected) ** 2).mean()) / size < 0.1
        # A value half-way between two steps may go either way.
        assert np.sqrt(((got[task] - reference[task]) ** 2).mean()) / size < 0.02


@pytest.mark.parametrize("style", ["cpu", "tensorrt"])
def test_what_is_kept_computes_and_takes_its_input_in_fp32(model: onnx.ModelProto, ranges: Ranges, style: str) -> None:
    result = quantise(model, ranges, style, keep=["layers.01.depth", "heads.semseg.predict"])
    kept = {"layers.01.depth.conv/Conv", "heads.semseg.predict/Conv"}
    for node in convolutions(result):
        assert is_quantised(result, node) == [node.name not in kept] * 2, node.name
    held = weights(result)
    for name in ("right", "semseg"):
        assert (held[f"{name}.weight"] == weights(model)[f"{name}.weight"]).all()
    # `added` is taken in 8 bits by the other branch, and as it is by the one kept.
    assert by_name(result)["layers.01.depth.conv/Conv"].input[0] == "added"


def test_only_one_part_in_8_bits_leaves_the_other_task_alone(model: onnx.ModelProto, ranges: Ranges) -> None:
    feed = feeds(1)[0]
    result = quantise(model, ranges, "cpu", only=["heads.semseg"])
    names = {node.name for node in convolutions(result) if any(is_quantised(result, node))}
    assert names == {"heads.semseg.pool/Conv", "heads.semseg.predict/Conv"}
    exact, got = run(model, feed), run(result, feed)
    assert (exact["depth"] == got["depth"]).all()
    assert not (exact["semseg"] == got["semseg"]).all()


def test_the_rest_in_fp16_has_half_scales_and_runs(model: onnx.ModelProto, ranges: Ranges) -> None:
    feed = feeds(1)[0]
    result = quantise(model, ranges, "tensorrt", rest="fp16", keep_fp32=["heads.depth.predict"])
    onnx.checker.check_model(result, full_check=True)
    assert result.opset_import[0].version == 19
    assert interface(result) == interface(model)
    held = {i.name: i.data_type for i in result.graph.initializer}
    types = {held[node.input[1]] for node in result.graph.node if node.op_type.endswith("izeLinear")}
    assert types == {TensorProto.FLOAT16, TensorProto.FLOAT}
    assert held["depth.weight_scale"] == TensorProto.FLOAT
    assert held["stem.bias.fp16"] == TensorProto.FLOAT16
    in_fp32 = run(quantise(model, ranges, "tensorrt"), feed)
    for task, value in run(result, feed).items():
        assert np.sqrt(((value - in_fp32[task]) ** 2).mean()) < 0.02 * in_fp32[task].std()


def test_every_node_is_named_after_a_module_of_the_network(model: onnx.ModelProto, ranges: Ranges) -> None:
    modules = {node.name.split("/")[0] for node in model.graph.node}
    for style in ("cpu", "tensorrt"):
        nodes = by_name(quantise(model, ranges, style))
        assert {name.split("/")[0] for name in nodes} <= modules
        assert {node.name for node in model.graph.node} <= nodes.keys()
        assert nodes["stem.semseg+depth.0/QuantizeLinear"].input[0] == "image"


def test_parts_hold_their_convolutions(model: onnx.ModelProto) -> None:
    parts = weighted_parts(model)
    assert tuple(parts) == PARTS
    assert parts["heads.semseg"] == ["heads.semseg.pool/Conv", "heads.semseg.predict/Conv"]


def test_what_cannot_be_quantised_is_refused(model: onnx.ModelProto, ranges: Ranges) -> None:
    with pytest.raises(UsageError, match="unknown style"):
        quantise(model, ranges, "gpu")
    with pytest.raises(UsageError, match="no node or module is called 'heads'"):
        quantise(branched_head_only(), ranges, "cpu", keep=["heads"])
    with pytest.raises(UsageError, match="biases in 32 bits"):
        quantise(model, ranges, "cpu", rest="fp16")
    with pytest.raises(UsageError, match="unknown precision of what is not quantised"):
        quantise(model, ranges, "tensorrt", rest="fp8")
    with pytest.raises(BuildError, match="no convolution or matrix product is left"):
        quantise(model, ranges, "cpu", keep=["stem", "layers", "heads"])
    with pytest.raises(UsageError, match="calibrate this one"):
        quantise(model, Ranges("minmax", 1, {"image": (-1.0, 1.0)}), "cpu")


def branched_head_only() -> onnx.ModelProto:
    """The network with its heads named otherwise."""
    other = branched()
    for node in other.graph.node:
        node.name = node.name.replace("heads.", "outputs.")
    return other


def test_constants_inside_the_graph_are_weights_too(ranges: Ranges) -> None:
    model = branched()
    initialiser = next(i for i in model.graph.initializer if i.name == "left.weight")
    node = onnx.helper.make_node("Constant", [], ["left.weight"], name="layers.01.semseg/Constant", value=initialiser)
    model.graph.initializer.remove(initialiser)
    model.graph.node.insert(0, node)
    held = weights(quantise(model, ranges, "cpu"))
    assert (
        held["left.weight_quantized"] == weights(quantise(branched(), ranges, "cpu"))["left.weight_quantized"]
    ).all()
    assert numpy_helper.to_array(initialiser).dtype == np.float32

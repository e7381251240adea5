"""Quantised networks are cut where a float crosses, and compute the same bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from bmtas.errors import BuildError
from export.sessions.protocol import Array
from export.stages.cut import split_at_branches
from tests.export.stages_tree import (
    NAMES,
    Feeds,
    by_reference,
    image,
    plain,
    same,
    small_model,
    staged,
    tree_model,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return tree_model(tmp_path_factory.mktemp("whole") / "model.onnx")


def quantised(dedicated: bool, scale: Array) -> ModelProto:
    """The rectified image, quantised once or once for each of two readers, and one more reader in the trunk."""
    q = ("scale", "zero")
    nodes = [helper.make_node("Relu", ["image"], ["x"], "stem/Relu")]
    nodes += [
        helper.make_node("QuantizeLinear", ["x", *q], [f"q{i}"], f"q{i}") for i in (range(3) if dedicated else [0])
    ]
    sources = [f"q{i}" if dedicated else "q0" for i in range(3)]
    nodes += [helper.make_node("DequantizeLinear", [s, *q], [f"d{i}"], f"d{i}") for i, s in enumerate(sources)]
    nodes += [
        helper.make_node("Sigmoid", ["d0"], ["both"], "trunk/Sigmoid"),
        helper.make_node("Exp", ["d1"], ["of_a"], "a/Exp"),
        helper.make_node("Neg", ["d2"], ["of_b"], "b/Neg"),
        helper.make_node("Mul", ["of_a", "both"], ["a"], "a/Mul"),
        helper.make_node("Mul", ["of_b", "both"], ["b"], "b/Mul"),
    ]
    return small_model(nodes, scale)


class TestQuantised:
    @pytest.mark.parametrize("dedicated", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    def test_floats_cross_and_each_stage_has_whole_pairs(self, dedicated: bool, dtype: type[np.generic]) -> None:
        model = quantised(dedicated, np.array(0.013, dtype))
        stages = split_at_branches(model)
        assert [stage.tasks for stage in stages] == [("a", "b"), ("a",), ("b",)]
        for stage in stages:
            kinds = [node.op_type for node in stage.model.graph.node]
            assert kinds.count("QuantizeLinear") == 1
            assert "DequantizeLinear" in kinds
            assert {v.dtype for v in (*stage.inputs, *stage.outputs)} == {np.dtype(dtype).name}
        # Every 8-bit value from far below the range to far above it must come back as itself.
        values = np.linspace(-1, 4, 18 * 40, dtype=np.float32).astype(dtype).reshape(40, 1, 2, 3, 3)
        for value in values:
            feeds: Feeds = {"image": value}
            expected = by_reference(model, feeds)
            assert all(same(expected, staged(stages, feeds, by_reference), ("a", "b")))

    def test_scales_that_do_not_give_the_same_again_are_refused(self) -> None:
        model = quantised(False, np.array(0.013, np.float32))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
        scale = next(i for i in model.graph.initializer if i.name == "scale")
        scale.CopyFrom(helper.make_tensor("scale", TensorProto.BFLOAT16, [], [0.013]))
        with pytest.raises(BuildError, match="its scale is BFLOAT16"):
            split_at_branches(model)

    def test_a_network_quantised_by_onnx_runtime_is_bit_equal_and_keeps_its_integer_kernels(
        self, model: ModelProto, tmp_path: Path
    ) -> None:
        quantization = pytest.importorskip("onnxruntime.quantization")

        class Images:
            def __init__(self) -> None:
                self._rest = iter([{"image": image(0)}, {"image": image(1)}])

            def get_next(self) -> Feeds | None:
                return next(self._rest, None)

        own = onnx.load_from_string(
            model.SerializeToString()
        )  # the quantiser moves the weights out of the model given to it
        quantization.quantize_static(
            own, str(tmp_path / "int8.onnx"), Images(), activation_type=quantization.QuantType.QUInt8
        )
        whole = onnx.load(str(tmp_path / "int8.onnx"))
        stages = split_at_branches(whole)
        feeds = {"image": image(2)}
        assert all(same(plain(whole, feeds), staged(stages, feeds, plain), NAMES))
        assert {value.dtype for stage in stages for value in stage.inputs} == {"float32"}
        convolutions = sum(node.op_type == "Conv" for node in whole.graph.node)
        assert (
            sum(integer_convolutions(stage.model, tmp_path) for stage in stages) == convolutions == 1 + 2 * 14 + 4 * 4
        )


def integer_convolutions(model: ModelProto, folder: Path) -> int:
    """How many convolutions ONNX Runtime made integer ones, read from the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node].count("QLinearConv")

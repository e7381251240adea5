"""Multiply-adds of an ONNX graph, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bmtas.errors import UsageError
from export.madds import madds


class TestMadds:
    def test_by_hand(self) -> None:
        rng = np.random.default_rng(0)
        constants = {
            "w0": rng.normal(size=(6, 2, 3, 3)),  # 2 groups of 4 -> 6 channels, 5x5 -> 3x3
            "w1": rng.normal(size=(6, 4, 2, 2)),  # transposed, 6 -> 4 channels, from 3x3 places
            "w2": rng.normal(size=(10, 144)),
            "w3": rng.normal(size=(10, 7)),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["image", "w0"], ["x0"], "conv", group=2),
                helper.make_node("ConvTranspose", ["x0", "w1"], ["x1"], "transposed", strides=[2, 2]),
                helper.make_node("Flatten", ["x1"], ["x2"], "flatten"),
                helper.make_node("Gemm", ["x2", "w2"], ["x3"], "gemm", transB=1),
                helper.make_node("MatMul", ["x3", "w3"], ["out"], "product"),
            ],
            "hand",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 5, 5])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 7])],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        assert madds(model) == 6 * 9 * 2 * 9 + 6 * 9 * 4 * 4 + 144 * 10 + 10 * 7

    def test_free_dimensions_are_refused(self) -> None:
        graph = helper.make_graph(
            [helper.make_node("Conv", ["image", "w"], ["out"], "conv")],
            "free",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 5, 5])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 1, 3, 3])],
            [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
        )
        with pytest.raises(UsageError, match=r"'conv'.*static"):
            madds(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))

"""Ranges are those of the FP32 network, and what 16 bits cannot hold is found before it becomes infinite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bmtas.errors import BuildError, UsageError
from export.precision.casts import lower
from export.precision.ranges import lowered, overflowing, value_ranges
from export.precision.simulate import simulated
from tests.export.branched import branched, feeds, run


def scaled(up: float, down: float) -> onnx.ModelProto:
    """image -> two convolutions 1x1 that multiply by `up` and by `down` -> Relu."""
    nodes = [
        helper.make_node("Conv", ["image", "up"], ["large"], name="layers.00.a.conv/Conv"),
        helper.make_node("Conv", ["large", "down"], ["small"], name="layers.01.a.conv/Conv"),
        helper.make_node("Relu", ["small"], ["a"], name="heads.a/Relu"),
    ]
    shape = (1, 1, 2, 2)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.full((1, 1, 1, 1), v, np.float32), k) for k, v in {"up": up, "down": down}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def image(*values: float) -> dict[str, Any]:
    return {"image": np.array(values, np.float32).reshape(1, 1, 2, 2)}


def test_ranges_are_those_of_hand_made_values_over_all_images() -> None:
    found = value_ranges(scaled(100, 0.5), iter([image(-1, 0, 0.5, 0.25), image(0, 0, 0, 3)]))
    assert found == {
        "image": ("image", -1, 3),
        "large": ("layers.00.a.conv/Conv", -100, 300),
        "small": ("layers.01.a.conv/Conv", -50, 150),
        "a": ("heads.a/Relu", 0, 150),
    }
    assert found["large"].largest == 300
    assert value_ranges(scaled(-100, 1), [image(1, 2, 3, 4)])["large"].largest == 400


def test_ranges_of_a_network_are_what_the_reference_computes() -> None:
    model, images = branched(), feeds(3)
    before = model.SerializeToString()
    found = value_ranges(model, images)
    assert model.SerializeToString() == before
    values = [name for node in model.graph.node for name in node.output]
    assert set(found) == {"image", *values}
    shown = branched()
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values)
    evaluator = ReferenceEvaluator(shown)
    every = [dict(zip(values, evaluator.run(values, dict(feed)), strict=True)) for feed in images]
    for name in values:
        assert found[name].low == pytest.approx(min(v[name].min() for v in every), rel=1e-4, abs=1e-5)
        assert found[name].high == pytest.approx(max(v[name].max() for v in every), rel=1e-4, abs=1e-5)


def test_who_gives_and_who_takes_a_value_too_large_stays_in_fp32() -> None:
    model, images = scaled(2e4, 1e-4), [image(0, 1, -2, 0.5)]
    # 40,000 fits into 65,504 once but not four times.
    expected = {"layers.00.a.conv/Conv": 4e4, "layers.01.a.conv/Conv": 4e4}
    assert overflowing(model, images, "fp16") == pytest.approx(expected)
    assert overflowing(model, images, "fp16", headroom=1.5) == {}
    assert overflowing(model, images, "bf16") == {}
    assert overflowing(model, [image(0, 0.25, 0, 0)], "fp16") == {}


def test_a_network_that_overflows_is_saved_by_what_is_kept_and_the_report_names_it() -> None:
    model, images = scaled(5e4, 1e-4), [image(1, -2, 3, 0.5)]
    exact = run(model, images[0])["a"]
    assert exact.ravel().tolist() == pytest.approx([5, 0, 15, 2.5])
    plain = run(simulated(lower(model, "fp16")), images[0])["a"]
    assert plain.ravel().tolist() == pytest.approx([5, 0, math.inf, 2.5], rel=2**-9)  # 150,000 is infinite in FP16
    result, report = lowered(model, "fp16", images)
    assert run(simulated(result), images[0])["a"] == pytest.approx(exact, rel=2**-10)
    assert report == {
        "precision": "fp16",
        "headroom": 4.0,
        "largest_value": 65504.0,
        "kept": [],
        "out_of_range": [
            {"node": "layers.00.a.conv/Conv", "module": "layers.00.a.conv", "largest": 150000.0},
            {"node": "layers.01.a.conv/Conv", "module": "layers.01.a.conv", "largest": 150000.0},
        ],
    }


def test_what_the_caller_keeps_is_kept_and_told() -> None:
    result, report = lowered(branched(), "fp16", feeds(1), keep=["heads.depth"])
    assert (report["kept"], report["out_of_range"]) == (["heads.depth"], [])
    assert "depth.weight" in {i.name for i in result.graph.initializer}


def test_no_image_bad_numbers_and_unknown_precisions_are_refused() -> None:
    model = scaled(1, 1)
    with pytest.raises(UsageError, match="needs images"):
        value_ranges(model, [])
    with pytest.raises(UsageError, match="known: bf16, fp16"):
        overflowing(model, [image(1, 1, 1, 1)], "int8")
    with pytest.raises(UsageError, match=r"headroom 0\.5 is below 1"):
        overflowing(model, [image(1, 1, 1, 1)], "fp16", headroom=0.5)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BuildError, match="not finite"):
            value_ranges(scaled(bad, 1), [image(1, 1, 1, 1)])

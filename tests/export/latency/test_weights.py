"""Files of a kit point into one file of numbers: small, loadable, and nothing in it slows a processor down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from costs.units import Resource
from export.latency.kit import Kit, file_of
from export.latency.weights import SharedWeights
from export.sessions.onnx import OnnxSession

LEAST_NORMAL = {np.dtype(np.float32): 2.0**-126}


def places(path: Path) -> dict[str, tuple[str, int, int]]:
    """Where each weight of a file that has none of its own begins: file, offset, length."""
    model = onnx.load(str(path), load_external_data=False)
    found = {}
    for constant in model.graph.initializer:
        if constant.data_location == TensorProto.EXTERNAL:
            told = {entry.key: entry.value for entry in constant.external_data}
            found[constant.name] = (told["location"], int(told["offset"]), int(told["length"]))
    return found


def numbers_of(model: ModelProto) -> Iterator[tuple[TensorProto, int]]:
    for constant in model.graph.initializer:
        yield constant, math.prod(constant.dims)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_files_run_and_give_normal_numbers(precision: str, prepared: tuple[Path, Kit]) -> None:
    folder, kit = prepared
    for item in kit.items():
        session = OnnxSession(folder / file_of(precision, item), threads=1)
        for name, value in session.run({n: spec.noise() for n, spec in session.inputs.items()}).items():
            size = np.abs(value)
            assert np.isfinite(value).all(), (item, name)
            assert size.max() > 1e-3, (item, name)
            assert not ((size > 0) & (size < LEAST_NORMAL[value.dtype])).any(), (item, name)


def test_nothing_inside_a_network_is_denormal(prepared: tuple[Path, Kit]) -> None:
    model = onnx.load(str(prepared[0] / "fp32/net.separate.onnx"))
    values = [name for node in model.graph.node for name in node.output if node.op_type in ("Conv", "Add", "Gemm")]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    for name, value in zip(values, session.run(None, {"image": image}), strict=True):
        size = np.abs(value)
        assert not ((size > 0) & (size < LEAST_NORMAL[value.dtype])).any(), name


def test_convolutions_have_the_biases_that_training_gives(prepared: tuple[Path, Kit]) -> None:
    """They begin at 0, and the exporter leaves such out: what has none would be measured too fast."""
    for item in ("net.shared", "layers.02.x2", "heads.depth", "stem"):
        model = onnx.load(str(prepared[0] / file_of("fp32", item)), load_external_data=False)
        read = [len(node.input) for node in model.graph.node if node.op_type == "Conv"]
        assert read
        assert set(read) == {3}, item


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_two_weights_of_a_file_start_at_the_same_place(precision: str, prepared: tuple[Path, Kit]) -> None:
    folder, kit = prepared
    for item in kit.items():
        found = places(folder / file_of(precision, item))
        assert len({(file, offset) for file, offset, _ in found.values()}) == len(found), item
        for file, offset, length in found.values():
            assert offset + length <= (folder / precision / file).stat().st_size


def test_a_kit_is_small(prepared: tuple[Path, Kit]) -> None:
    """4 bytes for each parameter of all files would be more than twice what the files take; those that are long point away."""
    folder, kit = prepared
    table = kit.counted()
    params = {layer.name: layer.per_group[Resource.PARAMS] for layer in table.layers}
    params |= {part.name: part.cost[Resource.PARAMS] for part in table.fixed}
    wanted = sum(part.copies * params[part.operation] for part in kit.parts)
    for network in kit.networks:
        tree = kit.architecture(network)
        total = table.architecture_cost(tree.task_indices, Resource.PARAMS)
        wanted += total if tree.shared_stem else total + params["stem"]
    files = [folder / file_of("fp32", item) for item in kit.items()]
    held = 0
    for path in files:
        model = onnx.load(str(path), load_external_data=False)
        held += sum(len(constant.raw_data) for constant, _ in numbers_of(model))
        assert all(len(constant.raw_data) < 1024 for constant, _ in numbers_of(model))
    assert held < 0.2 * 4 * wanted
    longest = max(length for path in files for _, _, length in places(path).values())
    assert (folder / "fp32/weights.bin").stat().st_size == longest + 1024 * 4096 + 4


def test_numbers_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shared = SharedWeights()
        shared.share(quantised(3))
        shared.share(floating(3))
        assert sorted(shared.write(tmp_path / name)) == ["weights.bin", "weights.int8.bin"]
    for file in ("weights.bin", "weights.int8.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    integers = np.fromfile(tmp_path / "a/weights.int8.bin", np.int8)
    assert integers.min() == -127  # symmetric, as weights are quantised
    assert integers.max() == 127
    floats = np.fromfile(tmp_path / "a/weights.bin", np.float32)
    assert floats.std() == pytest.approx(0.02, rel=0.01)
    assert np.mean((np.abs(floats) > 0) & (np.abs(floats) < 2.0**-126)) == 0


def quantised(channels: int) -> ModelProto:
    """A convolution of one channel to `channels`, its weights in 8 bits with a scale and a zero point for each."""
    constants = {
        "w": np.ones((channels, 1, 20, 20), np.int8),
        "scale": np.linspace(0.5, 1, channels).astype(np.float32),
        "zero": np.zeros(channels, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weights"], axis=0),
        helper.make_node("Conv", ["x", "weights"], ["y"]),
    ]
    return one_of(nodes, constants, channels)


def floating(channels: int) -> ModelProto:
    constants = {"w": np.ones((channels, 1, 20, 20), np.float32), "b": np.full(channels, 0.25, np.float32)}
    return one_of([helper.make_node("Conv", ["x", "w", "b"], ["y"])], constants, channels)


def one_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], channels: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("channels", [3, 1100])
def test_scales_and_zero_points_stay_however_many_they_are(channels: int, tmp_path: Path) -> None:
    model, shared = quantised(channels), SharedWeights()
    shared.share(model)
    path = tmp_path / "one.onnx"
    path.write_bytes(model.SerializeToString())
    shared.write(tmp_path)
    assert list(places(path)) == ["w"]
    integers = np.fromfile(tmp_path / "weights.int8.bin", np.int8)[: channels * 400].reshape(channels, 400)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1, 20, 20)).astype(np.float32)
    expected = (np.linspace(0.5, 1, channels)[:, None] * integers) @ image.ravel()
    (found,) = OnnxSession(path, threads=1).run({"x": image}).values()
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-3, atol=1e-2)

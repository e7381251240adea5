"""INT8 by Q/DQ in the graph, with ranges from images: calibrated once, then any number of graphs are made from them."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bmtas.errors import BuildError, UsageError, nearest
from bmtas.extras import require
from export.precision.casts import lower
from export.precision.graph import (
    Names,
    checked,
    constants_as_initialisers,
    consumers,
    copied,
    each,
    is_kept,
    module_of,
    part_of,
    require_known,
    sort_nodes,
)
from export.sessions.protocol import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

METHODS = ("minmax", "entropy", "percentile")
STYLES = ("cpu", "tensorrt")
RESTS = ("fp32", "fp16")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Where the convolutions around them are in 8 bits these are too, or each would cost a way to FP32 and back.
_AROUND = {"cpu": ("Add", "Concat", "MaxPool", "Resize"), "tensorrt": ("Add",)}
_PERCENTILE = 99.999
# With the library's own number of bins, 128, the entropy method has one threshold to choose from: the largest value.
_BINS: dict[str, dict[str, float]] = {
    "minmax": {},
    "entropy": {"num_bins": 256},
    "percentile": {"num_bins": 2048, "percentile": _PERCENTILE},
}
# What hands on what is in 8 bits; a runtime moves the first two into the layer before.
_PASSING = ("Clip", "Relu", "Expand")
_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Ranges:
    """Ranges for quantisation: lowest and highest number of each value, by the method that chose them, over `images` images."""

    method: str
    images: int
    values: Mapping[str, tuple[float, float]]


def calibrate(model: ModelProto, feeds: Iterable[Mapping[str, Array]], method: str = "minmax") -> Ranges:
    """Return the ranges of all values that `quantise` may quantise, in any style, over `feeds`, arrays by input name.

    `minmax` takes the extremes; `percentile` cuts 0.001 % of the numbers, half on each side; `entropy` chooses the cut whose
    histogram loses the least information. One image is held at a time. Raises UsageError for an unknown method, or if there is
    no image.
    """
    if method not in METHODS:
        raise UsageError(f"unknown calibration method {method!r}; {nearest(method, METHODS)}")
    library = require("onnxruntime.quantization.calibrate", "host")
    onnx = require("onnx", "host")
    flat = copied(model)
    constants_as_initialisers(flat)
    kind = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[method]
    count = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(flat, str(path))
        calibrator = library.create_calibrator(
            path,
            [*WEIGHTED, *dict.fromkeys(op for style in STYLES for op in _AROUND[style])],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=library.CalibrationMethod[kind],
            # One set of ranges serves both styles: the symmetric one takes the larger side of each.
            extra_options={"symmetric": False, **_BINS[method]},
        )
        for feed in each(feeds, "calibrating INT8"):
            calibrator.collect_data(_OneImage(feed))
            count += 1
        found = calibrator.compute_data()
    values = {name: tuple(float(np.min(v)) for v in data.range_value) for name, data in found.items()}
    return Ranges(method, count, {name: (pair[0], pair[1]) for name, pair in values.items()})


def quantise(
    model: ModelProto,
    ranges: Ranges,
    style: str,
    keep: Collection[str] = (),
    *,
    only: Collection[str] = (),
    rest: str = "fp32",
    keep_fp32: Collection[str] = (),
    reduce_range: bool = False,
) -> ModelProto:
    """Return the FP32 model with its convolutions and matrix products in 8 bits: a Q/DQ pair before each of their inputs.

    `cpu`: activations uint8 with a zero point, weights int8 per channel, biases int32, and the additions, concatenations,
    poolings and resizings between quantised layers in 8 bits too; ONNX Runtime and OpenVINO run this form fastest. (ONNX
    Runtime computes a layer in FP32 whose result is taken in FP32; OpenVINO does not.) `tensorrt`: int8 with zero point 0
    everywhere, weights per channel, biases in floating point, a pair of its own for each consumer, and of two added branches
    only the one that passes the convolution by is quantised.

    `keep` names what stays in floating point, by node, module or a module around it; with `only`, all else does. `rest`:
    `fp32`, or with `tensorrt` `fp16`, for what is not quantised and for the scales (opset 19 at least); `keep_fp32` names what
    then stays in FP32, such as `ranges.overflowing` finds. `reduce_range` gives weights 7 bits: CPUs with AVX2 but no VNNI add
    two products in 16 bits, which 8-bit weights can overflow. Everywhere else it only loses a bit, so it is off.

    Raises UsageError for an unknown style, rest or name, or ranges of another network, BuildError if nothing is left to quantise.
    """
    _check(style, rest)
    require_known(model, [*keep, *only, *keep_fp32])
    flat = _prepared(model)
    nodes = _chosen(flat, style, keep, only)
    _require_ranges(flat, nodes, ranges)
    result = _with_pairs(flat, nodes, ranges, style, reduce_range)
    chosen = set(nodes)
    _give_exact_inputs(
        result, lambda name: name not in chosen and (style == "tensorrt" or bool(only) or is_kept(name, keep))
    )
    if style == "tensorrt":
        _free_one_side_of_additions(result)
    _drop_unused_pairs(result)
    sort_nodes(result)
    _name_after_modules(result)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    return lower(result, rest, keep_fp32) if rest != "fp32" else checked(result)


class _OneImage:
    """What the library reads calibration data from, with one image, so that it holds the maps of no more at a time."""

    def __init__(self, feed: Mapping[str, Array]) -> None:
        self._left = [dict(feed)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


def _with_pairs(model: ModelProto, nodes: list[str], ranges: Ranges, style: str, reduce_range: bool) -> ModelProto:
    """Return the model with what the library puts around `nodes`."""
    library = require("onnxruntime.quantization", "host")
    data = require("onnxruntime.quantization.calibrate", "host")
    cpu = style == "cpu"
    quantizer = library.QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=library.QuantType.QInt8,
        activation_qType=library.QuantType.QUInt8 if cpu else library.QuantType.QInt8,
        tensors_range=data.TensorsData(
            data.CalibrationMethod.MinMax,
            {name: tuple(np.array(v, dtype=np.float32) for v in pair) for name, pair in ranges.values.items()},
        ),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=[*WEIGHTED, *_AROUND[style]],
        extra_options={
            "ActivationSymmetric": not cpu,
            "WeightSymmetric": True,
            "QuantizeBias": cpu,
            "DedicatedQDQPair": not cpu,
            # Pooling and resizing keep the scale of what they take, so they need pairs on both sides, first of all one before.
            "ForceQuantizeNoInputCheck": cpu,
            # A pair before the activation of a layer would only round twice; the runtimes move the activation into the layer.
            "OpTypesToExcludeOutputQuantization": [*WEIGHTED, "Add", "Concat"],
        },
    )
    return quantizer.quantize_model()


def _check(style: str, rest: str) -> None:
    if style not in STYLES:
        raise UsageError(f"unknown style of quantisation {style!r}; {nearest(style, STYLES)}")
    if rest not in RESTS:
        raise UsageError(f"unknown precision of what is not quantised {rest!r}; {nearest(rest, RESTS)}")
    if rest == "fp16" and style != "tensorrt":
        raise UsageError(
            "the style 'cpu' has biases in 32 bits, whose scales FP16 cannot hold; use 'tensorrt' or rest 'fp32'"
        )


def _prepared(model: ModelProto) -> ModelProto:
    """Return a copy with the types of all values, marked so that the library does not write it to a file to find them."""
    onnx = require("onnx", "host")
    flat = copied(model)
    constants_as_initialisers(flat)
    flat = onnx.shape_inference.infer_shapes(flat, strict_mode=True, data_prop=True)
    require("onnxruntime.quantization.quant_utils", "host").add_infer_metadata(flat)
    return flat


def _chosen(model: ModelProto, style: str, keep: Collection[str], only: Collection[str]) -> list[str]:
    """Return the names of the nodes to quantise; around convolutions, those whose inputs all come from 8 bits."""
    weights = {initialiser.name for initialiser in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    chosen: list[str] = []
    eight: set[str] = set()
    for node in model.graph.node:
        free = not is_kept(node.name, keep) and (not only or is_kept(node.name, only))
        values = [
            name for name in node.input[: 1 if node.op_type == "Resize" else None] if name and name not in weights
        ]
        if node.op_type in WEIGHTED:
            takes = free and any(name in weights for name in node.input[1:2])
        elif node.op_type in _PASSING:
            eight.update(node.output if eight.intersection(values) else ())
            continue
        else:
            takes = free and not only and node.op_type in _AROUND[style] and eight.issuperset(values)
            takes = takes and outputs.isdisjoint(node.output)
        if takes:
            chosen.append(node.name)
            eight.update(node.output)
    if not any(node.name in set(chosen) and node.op_type in WEIGHTED for node in model.graph.node):
        raise BuildError(
            "no convolution or matrix product is left to quantise: all of them are kept in floating "
            "point; export 16 bits, or keep fewer of them"
        )
    return chosen


def _require_ranges(model: ModelProto, nodes: list[str], ranges: Ranges) -> None:
    weights = {initialiser.name for initialiser in model.graph.initializer}
    chosen = set(nodes)
    for node in model.graph.node:
        if node.name in chosen and node.input[0] not in weights and node.input[0] not in ranges.values:
            raise UsageError(
                f"the calibration has no range for {node.input[0]!r}, an input of {node.name!r}: it was made for another "
                "network; calibrate this one"
            )


def _free_one_side_of_additions(model: ModelProto) -> None:
    """Take the pair away between a convolution and the addition that alone takes it, so that a GPU does both in one kernel.

    The other side keeps its pair. Where both sides are convolutions, the later one is freed. As NVIDIA's guide to placing
    Q/DQ asks for residual connections.
    """
    gives = {name: node for node in model.graph.node for name in node.output}
    takers = consumers(model)
    order = {node.name: i for i, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        sides = []
        for i, name in enumerate(node.input):
            pair = _pair_before(name, gives)
            source = gives.get(pair[0].input[0]) if pair else None
            if pair and source is not None and source.op_type in WEIGHTED and len(takers[pair[0].input[0]]) == 1:
                sides.append((order[source.name], i, pair))
        if sides:
            _, i, pair = max(sides, key=lambda side: side[0])
            node.input[i] = pair[0].input[0]


def _pair_before(name: str, gives: Mapping[str, NodeProto]) -> tuple[NodeProto, NodeProto] | None:
    """Return the quantising and the dequantising node behind a value, if it comes from such a pair."""
    back = gives.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    down = gives.get(back.input[0])
    return (down, back) if down is not None else None


def _name_after_modules(model: ModelProto) -> None:
    """Name Q/DQ nodes after modules: a quantising one after what it takes, a dequantising one after what takes it."""
    takers = consumers(model)
    gives = {name: node for node in model.graph.node for name in node.output}
    names = Names(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            near = gives.get(node.input[0])
            if near is None:  # the image: its module is the one that takes it
                near = takers[takers[node.output[0]][0].output[0]][0]
        elif node.op_type == "DequantizeLinear":
            near = takers[node.output[0]][0]
        else:
            continue
        node.name = names.fresh(f"{module_of(near.name)}/{node.op_type}")


def _give_exact_inputs(model: ModelProto, wants: Callable[[str], bool]) -> None:
    """Let the nodes whose names `wants` takes have their inputs as they were before a pair that another node asked for."""
    gives = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in _PAIR and wants(node.name):
            for i, name in enumerate(node.input):
                pair = _pair_before(name, gives)
                if pair is not None:
                    node.input[i] = pair[0].input[0]


def _drop_unused_pairs(model: ModelProto) -> None:
    outputs = {output.name for output in model.graph.output}
    for kind in reversed(_PAIR):
        used = {name for node in model.graph.node for name in node.input} | outputs
        for node in [n for n in model.graph.node if n.op_type == kind and n.output[0] not in used]:
            model.graph.node.remove(node)


def quantised_share(model: ModelProto) -> float:
    """Return the share of convolutions and matrix products whose weights are in 8 bits; 0 where the graph has none."""
    weights = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    heavy = [node for node in model.graph.node if node.op_type in WEIGHTED]
    return sum(node.input[1] in weights for node in heavy) / len(heavy) if heavy else 0.0


def weighted_parts(model: ModelProto) -> dict[str, list[str]]:
    """Return the nodes with weights that `quantise` takes, by part of the network (`graph.part_of`), in graph order."""
    parts: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            parts.setdefault(part_of(node.name), []).append(node.name)
    return parts

"""16-bit precisions by typed casts in the graph, which every runtime reads alike and no builder flag can drop."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from bmtas.errors import UsageError, nearest
from bmtas.extras import require
from export.precision.graph import (
    Names,
    ValueType,
    checked,
    constants_as_initialisers,
    consumers,
    copied,
    is_kept,
    module_of,
    require_known,
    tensor,
    value_types,
)
from export.sessions.protocol import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HALF_PRECISIONS = ("fp16", "bf16")
LOST = 0.01
"""Weights whose rounding error, root mean square, is a larger share of their size than this keep their node in FP32."""

# Sums over whole maps, powers and quotients: their terms leave the range of 16 bits although their results do not.
_FLOAT_OPS = frozenset(
    "ReduceMean ReduceSum ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp ReduceProd GlobalAveragePool "
    "GlobalLpPool LpPool LpNormalization InstanceNormalization LayerNormalization GroupNormalization Softmax LogSoftmax "
    "CumSum Exp Log Pow Reciprocal Div Range Cast CastLike".split()
)
# Inputs that ONNX defines as float32, or that are read as sizes: the bug of other converters.
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
_LIGHT = frozenset(
    "Expand Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Gather Identity Concat Tile Clip Max Min Relu Sqrt Neg "
    "Mul Add Sub".split()
)
_BOUNDED = ("Clip", "Max", "Min")  # a bound that becomes infinite or 0 is what bounds a value in 16 bits too
_SCALED = ("QuantizeLinear", "DequantizeLinear")
# ONNX lets convolution and pooling take bfloat16 from opset 22 on, and scales of quantisation be 16 bits from 19 on.
_OPSET = {"bf16": 22, "fp16": 19}


def lower(model: ModelProto, precision: str, keep: Collection[str] = ()) -> ModelProto:
    """Return the model with its values and weights in `precision`, `fp16` or `bf16`; graph inputs and outputs stay as they are.

    In FP32 stay: nodes that `keep` names (by node, module or a module around it), operators that sum over maps, take powers
    or quotients, what scales an input of whole numbers, shape arithmetic, a Resize that gives a graph output (the cast is
    cheaper before it), nodes whose weights the precision cannot hold, and what lies between such nodes. Each value is cast at most once each way. Values that overflow are not looked for:
    `ranges.lowered` does. The opset becomes 22 for bf16, and at least 19 for fp16 where the graph has Q/DQ.

    Raises UsageError for an unknown precision or a name in `keep` that is not in the model, BuildError for a graph that it
    cannot type or a result that is not valid ONNX.
    """
    if precision not in HALF_PRECISIONS:
        raise UsageError(f"unknown 16-bit precision {precision!r}; {nearest(precision, HALF_PRECISIONS)}")
    require_known(model, keep)
    onnx = require("onnx", "host")
    lowered = _with_opset(model, precision)
    constants_as_initialisers(lowered)
    _Lowering(lowered, precision, keep).run()
    return checked(onnx.shape_inference.infer_shapes(lowered))


def unfit_weights(model: ModelProto, precision: str) -> dict[str, float]:
    """Return the largest absolute weight of each node whose weights `precision` cannot hold: too large, or mostly lost.

    Scales of quantisation, which are rounded up to what the precision has, and bounds of Clip are left out. Raises UsageError as `lower` does.
    """
    if precision not in HALF_PRECISIONS:
        raise UsageError(f"unknown 16-bit precision {precision!r}; {nearest(precision, HALF_PRECISIONS)}")
    arrays, half = _float_initialisers(model), _number_type(precision)
    unfit = {name: float(np.abs(values).max()) for name, values in arrays.items() if not _fits(values, half)}
    found = {}
    for node in model.graph.node:
        sizes = [unfit[name] for i, name in enumerate(node.input) if name in unfit and _is_lowered_input(node, i)]
        if sizes and node.op_type not in (*_SCALED, *_BOUNDED):
            found[node.name] = max(sizes)
    return found


def _fits(values: Array, half: Any) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(half).astype(np.float64)
    if np.isinf(rounded[np.isfinite(values)]).any():
        return False
    finite = np.isfinite(values)
    exact, lost = values[finite].astype(np.float64), (rounded - values)[finite]
    return bool(np.sqrt((lost**2).sum()) <= LOST * np.sqrt((exact**2).sum()))


def _is_lowered_input(node: NodeProto, index: int) -> bool:
    return index not in _FLOAT_INPUTS.get(node.op_type, ())


def _number_type(precision: str) -> Any:
    return np.float16 if precision == "fp16" else require("ml_dtypes", "host").bfloat16


def _float_initialisers(model: ModelProto) -> dict[str, Array]:
    onnx = require("onnx", "host")
    float32 = onnx.TensorProto.FLOAT
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == float32}


def _with_opset(model: ModelProto, precision: str) -> ModelProto:
    """Return a copy of the model in the lowest opset that lets its operators be 16 bits."""
    onnx = require("onnx", "host")
    has = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    quantised = any(node.op_type in _SCALED for node in model.graph.node)
    if has >= _OPSET[precision] or (precision == "fp16" and not quantised):
        return copied(model)
    converted = onnx.version_converter.convert_version(model, _OPSET[precision])
    converted.ir_version = max(model.ir_version, 9)
    return converted


class _Lowering:
    """One pass over a graph in its own order, so that the result is sorted too."""

    def __init__(self, model: ModelProto, precision: str, keep: Collection[str]) -> None:
        onnx = require("onnx", "host")
        self.onnx, self.model, self.precision = onnx, model, precision
        self.element = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
        self.half = _number_type(precision)
        self.types: dict[str, ValueType] = value_types(model)
        self.floats = {name for name, kind in self.types.items() if kind.element == onnx.TensorProto.FLOAT}
        self.weights = _float_initialisers(model)
        self.names = Names(model)
        self.outputs = {output.name for output in model.graph.output}
        self.stay = self._staying(keep)
        self.nodes: list[NodeProto] = []
        self.is_half: dict[str, bool] = {}
        self.renamed: dict[str, str] = {}
        self.other: dict[str, str] = {}  # the same value in the other precision, by its original name

    def run(self) -> None:
        """Rewrite the model in place."""
        for node in self.model.graph.node:
            half = node.name not in self.stay
            if half and node.op_type in _SCALED:
                self._round_scales_up(node)
            for i, name in enumerate(node.input):
                if name in self.floats:
                    node.input[i] = self._in(name, half and _is_lowered_input(node, i), node)
            given = [name for name in node.output if name in self.floats]
            self.is_half.update(dict.fromkeys(given, half))
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if half and name in self.floats and name in self.outputs:
                    node.output[i] = self.renamed[name] = self.names.fresh(f"{name}.{self.precision}")
                    self.other[name] = name
                    self._cast(node.output[i], name, self.onnx.TensorProto.FLOAT, node)
        graph = self.model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input} | self.outputs
        for initialiser in [i for i in graph.initializer if i.name not in used]:
            graph.initializer.remove(initialiser)

    def _in(self, name: str, half: bool, node: NodeProto) -> str:
        """Return the name under which a value is had in the precision wanted, made if there is none yet."""
        if self.is_half.get(name, False) == half:
            return self.renamed.get(name, name)
        if name not in self.other:
            suffix = self.precision if half else "fp32"
            self.other[name] = self.names.fresh(f"{name}.{suffix}")
            if name in self.weights:
                with np.errstate(over="ignore"):
                    rounded = self.weights[name].astype(self.half)
                self.model.graph.initializer.append(tensor(self.other[name], rounded, self.element))
            else:
                to = self.element if half else self.onnx.TensorProto.FLOAT
                self._cast(name, self.other[name], to, node)
        return self.other[name]

    def _cast(self, source: str, target: str, to: int, node: NodeProto) -> None:
        name = self.names.fresh(f"{module_of(node.name)}/Cast")
        self.nodes.append(self.onnx.helper.make_node("Cast", [source], [target], name=name, to=to))

    def _staying(self, keep: Collection[str]) -> set[str]:
        """Return the names of the nodes that stay in FP32."""
        unfit = unfit_weights(self.model, self.precision)
        stay = {
            node.name
            for node in self.model.graph.node
            if is_kept(node.name, keep) or node.name in unfit or self._is_float_by_nature(node)
        }
        return stay | self._preparing() | self._between(stay)

    def _preparing(self) -> set[str]:
        """Return what turns whole numbers of the input into values: in 16 bits it would cost up to one grey level of 256."""
        inputs = {value.name for value in self.model.graph.input} - self.floats
        found: set[str] = set()
        given: set[str] = set()
        for node in self.model.graph.node:
            taken = [name for name in node.input if name in self.floats and name not in self.weights]
            converts = node.op_type == "Cast" and node.input[0] in inputs
            if converts or (node.op_type in _LIGHT and taken and given.issuperset(taken)):
                found.add(node.name)
                given.update(node.output)
            elif node.op_type == "Transpose" and node.input[0] in inputs:
                inputs.update(node.output)
        return found

    def _between(self, stay: set[str]) -> set[str]:
        """Return what lies between two nodes in FP32, or such a node and an output, and must not round on the way."""
        takers = consumers(self.model)
        gives = {name: node.name for node in self.model.graph.node for name in node.output}
        light = [node for node in self.model.graph.node if node.op_type in _LIGHT]
        found = {node.name for node in light}
        size = -1
        while size != len(found):
            size, exact = len(found), stay | found
            for node in light:
                taken = [gives[name] for name in node.input if name in self.floats and name in gives]
                taking = [taker.name for name in node.output for taker in takers.get(name, [])]
                if not taken or not exact.issuperset((*taken, *taking)):
                    found.discard(node.name)
        return found

    def _is_float_by_nature(self, node: NodeProto) -> bool:
        given = [name for name in node.output if name in self.floats]
        taken = [name for i, name in enumerate(node.input) if name in self.floats and _is_lowered_input(node, i)]
        if node.op_type in _FLOAT_OPS or not taken:
            return True
        if node.op_type in _SCALED:
            return self._is_scale_unfit(node)
        ranks = [self.types[name].rank for name in given]
        shape_arithmetic = bool(given) and all(rank is not None and rank <= 1 for rank in ranks)
        return shape_arithmetic or (node.op_type == "Resize" and node.output[0] in self.outputs)

    def _is_scale_unfit(self, node: NodeProto) -> bool:
        """Return whether 16 bits cannot hold the scale: that of a bias in 32 bits is too small, another may be too large."""
        if node.op_type == "DequantizeLinear" and self.types[node.input[0]].element == self.onnx.TensorProto.INT32:
            return True
        scale = self.weights.get(node.input[1])
        with np.errstate(over="ignore"):
            return scale is None or bool(np.isinf(scale.astype(self.half)).any())

    def _round_scales_up(self, node: NodeProto) -> None:
        """Give a Q/DQ node scales that the precision has, none smaller than before; 8-bit weights are rounded anew to them.

        Rounding down would clip the largest values, and a scale that becomes 0 would lose all of them.
        """
        name = node.input[1]
        if name in self.other:
            return
        exact = self.weights[name]
        scale = exact.astype(self.half)
        scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, self.half(np.inf)), scale)
        self.other[name] = self.names.fresh(f"{name}.{self.precision}")
        self.model.graph.initializer.append(tensor(self.other[name], scale, self.element))
        weights = next((i for i in self.model.graph.initializer if i.name == node.input[0]), None)
        if weights is None or weights.data_type != self.onnx.TensorProto.INT8:
            return
        values = self.onnx.numpy_helper.to_array(weights)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        ratio = exact.astype(np.float64) / scale.astype(np.float64)
        spread = (
            ratio.reshape([-1 if d == axis % values.ndim else 1 for d in range(values.ndim)]) if ratio.ndim else ratio
        )
        rounded = np.rint(values * spread).astype(np.int8)
        node.input[0] = self.names.fresh(f"{weights.name}.{self.precision}")
        self.model.graph.initializer.append(tensor(node.input[0], rounded, self.onnx.TensorProto.INT8))

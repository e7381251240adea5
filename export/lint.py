"""A look at an ONNX graph for what is known to go wrong on the way to a runtime, before anything is built from it.

The cases are those of public threads: shifted maps from Resize, shapes that depend on data, normalisations left over,
opsets that a device does not know, weights that are no numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bmtas.extras import require

MOST_OPSET = 20
"""TensorRT 10.3, which JetPack 6 stays with, and every later one read it; ONNX Runtime's INT8 tools do, too."""
MOST_IR = 10
"""What ONNX Runtime builds of the last two years read."""
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_DATA_DEPENDENT = {
    "NonZero",
    "Unique",
    "Loop",
    "Scan",
    "If",
    "Where",
    "Compress",
    "NonMaxSuppression",
    "Shape",
    "Range",
}
_LEFT_OVER = {"BatchNormalization", "Dropout", "InstanceNormalization", "Identity"}


@dataclass(frozen=True)
class Finding:
    """One thing found: `fatal` if no runtime should be given the file, otherwise worth knowing."""

    node: str
    text: str
    fatal: bool


def lint(model: Any, *, dynamic: bool = False) -> list[Finding]:
    """Return what was found in `model` (ModelProto), fatal things first. `dynamic` says that free dimensions were asked for."""
    found = [*_versions(model), *_weights(model), *_shapes(model, dynamic)]
    for node in model.graph.node:
        found += _node(node, dynamic)
    return sorted(found, key=lambda finding: not finding.fatal)


def summary(findings: Sequence[Finding]) -> list[str]:
    """Return a sentence per kind of finding, naming the first node and how many more there are."""
    grouped: dict[str, list[str]] = {}
    for finding in findings:
        grouped.setdefault(finding.text, []).append(finding.node)
    return [
        f"{nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''}: {text}".removeprefix(": ")
        for text, nodes in grouped.items()
    ]


def _versions(model: Any) -> Iterator[Finding]:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > MOST_OPSET:
            yield Finding("", f"opset {entry.version}; TensorRT 10.3 reads up to {MOST_OPSET}", fatal=True)
        if entry.domain not in ("", "ai.onnx"):
            yield Finding("", f"operators of the domain {entry.domain!r}, which TensorRT does not know", fatal=True)
    if model.ir_version > MOST_IR:
        yield Finding("", f"IR version {model.ir_version}; older ONNX Runtimes read up to {MOST_IR}", fatal=True)


def _weights(model: Any) -> Iterator[Finding]:
    onnx = require("onnx", "host")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Finding(tensor.name, "its values are in another file, which can get lost", fatal=True)
        elif tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            broken = int((~_isfinite(values)).sum())
            if broken:
                yield Finding(tensor.name, f"{broken} of its {values.size} weights are NaN or infinite", fatal=True)


def _isfinite(values: Any) -> Any:
    import numpy as np

    return np.isfinite(values)


def _shapes(model: Any, dynamic: bool) -> Iterator[Finding]:
    for value in [*model.graph.input, *model.graph.output]:
        free = [d.dim_param or "?" for d in value.type.tensor_type.shape.dim if not d.HasField("dim_value")]
        if free and not dynamic:
            yield Finding(value.name, f"free dimensions {', '.join(free)} where static ones were asked for", fatal=True)


def _node(node: Any, dynamic: bool) -> Iterator[Finding]:
    if node.op_type in _DATA_DEPENDENT and not dynamic:
        yield Finding(node.name, f"{node.op_type}: shapes or values that depend on data at run time", fatal=True)
    if node.op_type in _LEFT_OVER:
        yield Finding(node.name, f"{node.op_type} is left over and costs a pass over memory", fatal=False)
    if node.op_type == "Resize":
        modes = {a.name: a.s.decode() for a in node.attribute if a.type == a.STRING}
        how = modes.get("coordinate_transformation_mode", "half_pixel")
        if how not in _RESIZE_MODES:
            yield Finding(node.name, f"Resize with {how!r}, which runtimes compute differently", fatal=True)
        if modes.get("mode") == "cubic":
            yield Finding(node.name, "cubic Resize, which TensorRT computes differently", fatal=False)
    if node.op_type == "Conv":
        wide = [list(a.ints) for a in node.attribute if a.name == "dilations" and max(a.ints, default=1) > 1]
        grouped = [a.i for a in node.attribute if a.name == "group" and a.i > 1]
        if wide and grouped:
            yield Finding(
                node.name, f"a grouped convolution with dilation {wide[0]}: few fast kernels exist for it", fatal=False
            )

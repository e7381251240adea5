"""The ranges that values take on images, and which layers they make too large for 16 bits. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bmtas.errors import BuildError, UsageError, nearest
from bmtas.extras import require
from export.precision.casts import HALF_PRECISIONS, lower, unfit_weights
from export.precision.graph import Names, each, module_of, session, value_types
from export.sessions.protocol import Array

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = {"fp16": 65504.0, "bf16": (2 - 2.0**-7) * 2.0**127}
"""Largest finite value of each precision."""
HEADROOM = 4.0
"""How often a value seen must fit into the largest one, by default: two bits.

One is for images that go beyond those seen, one for the sums inside a convolution: a GPU may add them up in FP16, and a
partial sum can be larger than what comes out.
"""


class ValueRange(NamedTuple):
    """Smallest and largest number of a value over all images, and the node that gives it; an input is its own node."""

    node: str
    low: float
    high: float

    @property
    def largest(self) -> float:
        """The largest absolute number."""
        return max(abs(self.low), abs(self.high))


def value_ranges(model: ModelProto, feeds: Iterable[Mapping[str, Array]]) -> dict[str, ValueRange]:
    """Return the range of every float value of an FP32 model over `feeds`, arrays by input name, in ONNX Runtime.

    The graph itself reduces each value to two numbers, so that no map is kept. Raises UsageError without feeds, BuildError
    if the network gives NaN or infinite numbers.
    """
    probe, names = _with_extremes(model)
    runner = session(probe)
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for feed in each(feeds, "looking for the ranges of values"):
        found = runner.run(feed)
        for output in model.graph.output:
            _require_finite(found[output.name], output.name)
        numbers = np.array([float(found[name]) for pair in names.values() for name in pair]).reshape(-1, 2)
        for value, pair in zip(names, numbers, strict=True):
            _require_finite(pair, value)
        low, high = np.minimum(low, numbers[:, 0]), np.maximum(high, numbers[:, 1])
    nodes = {name: node.name for node in model.graph.node for name in node.output}
    return {
        value: ValueRange(nodes.get(value, value), float(a), float(b))
        for value, a, b in zip(names, low, high, strict=True)
    }


def overflowing(
    model: ModelProto, feeds: Iterable[Mapping[str, Array]], precision: str, headroom: float = HEADROOM
) -> dict[str, float]:
    """Return the nodes that `precision` cannot hold, each with its largest absolute input, output or weight.

    Those are nodes that give or take a value larger than the precision's largest one divided by `headroom`, and nodes whose
    weights it cannot hold (`casts.unfit_weights`). Values too small for the precision are not looked for: they matter only
    where nothing larger is added to them, which the outputs show. Raises UsageError for an unknown precision, a headroom below
    1 or no feeds, BuildError for values that are not finite.
    """
    if precision not in HALF_PRECISIONS:
        raise UsageError(f"unknown 16-bit precision {precision!r}; {nearest(precision, HALF_PRECISIONS)}")
    if not headroom >= 1:
        raise UsageError(
            f"the headroom {headroom} is below 1: values as large as those seen would overflow; take 1 or more"
        )
    limit = LARGEST[precision] / headroom
    sizes = {value: found.largest for value, found in value_ranges(model, feeds).items() if found.largest > limit}
    found = unfit_weights(model, precision)
    for node in model.graph.node:
        # Who takes a value that 16 bits cannot hold must take it in FP32.
        largest = max((sizes[name] for name in (*node.input, *node.output) if name in sizes), default=0.0)
        if largest:
            found[node.name] = max(found.get(node.name, 0.0), largest)
    return found


def lowered(
    model: ModelProto, precision: str, feeds: Iterable[Mapping[str, Array]], keep: Iterable[str] = ()
) -> tuple[ModelProto, dict[str, Any]]:
    """Return the model in `precision`, `fp16` or `bf16`, with what cannot be held kept in FP32, and the report.

    The report: `precision`, `headroom`, `largest_value` of the precision, `kept` by the caller's choice, and `out_of_range`
    with each node's module and largest absolute value. Raises as `overflowing` and `casts.lower` do.
    """
    asked = tuple(keep)
    too_large = overflowing(model, feeds, precision)
    report = {
        "precision": precision,
        "headroom": HEADROOM,
        "largest_value": LARGEST[precision],
        "kept": list(asked),
        "out_of_range": [
            {"node": node, "module": module_of(node), "largest": largest} for node, largest in too_large.items()
        ],
    }
    return lower(model, precision, (*asked, *too_large)), report


def _with_extremes(model: ModelProto) -> tuple[ModelProto, dict[str, tuple[str, str]]]:
    """Return the model with the minimum and maximum of each float value as outputs, and their names by value."""
    onnx = require("onnx", "host")
    types, fresh = value_types(model), Names(model)
    probe = type(model)()
    probe.CopyFrom(model)
    names: dict[str, tuple[str, str]] = {}
    candidates = [*(i.name for i in model.graph.input), *(name for node in model.graph.node for name in node.output)]
    weights = {initialiser.name for initialiser in model.graph.initializer}
    for value in candidates:
        if value in weights or not value or types[value].element != onnx.TensorProto.FLOAT:
            continue
        names[value] = (fresh.fresh(f"{value}.low"), fresh.fresh(f"{value}.high"))
        for operator, name in zip(("ReduceMin", "ReduceMax"), names[value], strict=True):
            probe.graph.node.append(onnx.helper.make_node(operator, [value], [name], name=name, keepdims=0))
            probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    return probe, names


def _require_finite(numbers: Array, value: str) -> None:
    if np.issubdtype(numbers.dtype, np.floating) and not np.isfinite(numbers).all():
        raise BuildError(
            f"the FP32 network gives numbers that are not finite at {value!r}: no precision can be chosen for it. "
            "Check the weights and the images"
        )

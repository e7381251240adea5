"""Which nodes of parallel branches can run as one node on their values side by side along the channels, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bmtas.extras import require
from export.sessions.protocol import Array, TensorSpec
from export.stages.values import specs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


@dataclass(frozen=True)
class Beside:
    """An input that holds these values side by side along the channels."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Stacked:
    """A constant that holds these constants one after the other along their first axis."""

    names: tuple[str, ...]


Slot = str | Beside | Stacked | Array
"""One input of a merged node: a value as it is, values side by side, stacked constants, or a new constant."""


@dataclass(frozen=True)
class Merged:
    """How nodes become one: its inputs, and the `group` attribute of a convolution."""

    slots: tuple[Slot, ...]
    group: int | None = None

    @property
    def copies(self) -> bool:
        """Whether one value stands several times side by side, which costs a copy of it."""
        return any(isinstance(s, Beside) and len(set(s.values)) < len(s.values) for s in self.slots)


class Values:
    """What the rules ask of a model: shapes of values, contents of constants."""

    def __init__(self, model: ModelProto) -> None:
        self.specs: dict[str, TensorSpec] = specs(model)
        self.constants: dict[str, TensorProto] = {i.name: i for i in model.graph.initializer}

    def channels(self, value: str) -> int | None:
        """Return the size of axis 1; None if it is not known or there is none."""
        shape = self.specs[value].shape if value in self.specs else ()
        return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None

    def rank(self, value: str) -> int:
        """Return the number of dimensions."""
        return len(self.specs[value].shape)

    def constant(self, name: str) -> Array:
        """Return the content of a constant."""
        return np.asarray(require("onnx", "host").numpy_helper.to_array(self.constants[name]))

    def equal_constants(self, names: Sequence[str]) -> bool:
        """Return whether all `names` are constants of one type, shape and content."""
        if not all(name in self.constants for name in names):
            return False
        first = self.constant(names[0])
        others = [self.constant(name) for name in set(names) - {names[0]}]
        return all(o.dtype == first.dtype and o.shape == first.shape and bool((o == first).all()) for o in others)


def merged(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    """Return how `nodes`, one per branch, become one node; None where they cannot.

    They must have the same operation, attributes, output shapes and shapes of weights. A convolution on one common input becomes
    wider (exact: each output channel keeps its weights); on different inputs, grouped. What acts on each channel alone
    (activations, sums and products of equal shapes, pooling, resizing, spatial means) acts on all of them. Whatever mixes
    channels otherwise, a concatenation of channels for example, cannot be merged, nor can nodes whose weights are no constants
    (those of a quantised network), nor nodes that compute the same thing from the same inputs.
    """
    first = nodes[0]
    rule = _RULES.get(first.op_type)
    if rule is None or len(first.output) != 1 or any(_kind(node) != _kind(first) for node in nodes):
        return None
    shapes = {values.specs[node.output[0]].shape if node.output[0] in values.specs else () for node in nodes}
    if len(shapes) != 1 or values.channels(first.output[0]) is None:
        return None
    return rule(nodes, values)


def _kind(node: NodeProto) -> tuple[object, ...]:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, [bool(name) for name in node.input], len(node.output), attributes


def _slot(nodes: Sequence[NodeProto], index: int) -> tuple[str, ...]:
    return tuple(node.input[index] for node in nodes)


def _convolution(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    images, *weights = (_slot(nodes, i) for i in range(len(nodes[0].input)))
    for names in weights:
        if not all(name in values.constants for name in names):
            return None
        if len({(tuple(values.constants[n].dims), values.constants[n].data_type) for n in names}) != 1:
            return None
    if any(image in values.constants or values.channels(image) is None for image in images):
        return None
    group = next((a.i for a in nodes[0].attribute if a.name == "group"), 1)
    stacked = tuple(Stacked(names) for names in weights)
    if group == 1 and len(set(images)) == 1:
        return Merged((images[0], *stacked), 1)
    return Merged((Beside(images), *stacked), group * len(nodes))


def is_grouped_anew(node: NodeProto, how: Merged, values: Values) -> bool:
    """Return whether merging makes a grouped convolution of one that was not depthwise."""
    grouped = how.group is not None and isinstance(how.slots[0], Beside)
    return grouped and tuple(values.constants[node.input[1]].dims[1:2]) != (1,)


def _by_channel(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    """One varying input of the output's channels; everything else constant and equal in all branches."""
    images = _slot(nodes, 0)
    channels = values.channels(nodes[0].output[0])
    if len(set(images)) == 1 or any(i in values.constants or values.channels(i) != channels for i in images):
        return None
    kept: list[Slot] = [Beside(images)]
    for index in range(1, len(nodes[0].input)):
        names = _slot(nodes, index)
        if names[0] and not values.equal_constants(names):
            return None
        kept.append(names[0])
    return Merged(tuple(kept))


def _spatial_mean(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    node = nodes[0]
    given = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
    if len(node.input) > 1 and node.input[1] in values.constants:
        given = values.constant(node.input[1]).tolist()
    rank = values.rank(node.input[0]) if node.input[0] in values.specs else 0
    if not given or not {axis % rank for axis in given if rank}.isdisjoint({0, 1}):
        return None
    return _by_channel(nodes, values)


def _resized(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    how = _by_channel(nodes, values)
    node = nodes[0]
    if how is None or any(a.name == "axes" for a in node.attribute):
        return None
    if len(node.input) < 4 or not node.input[3]:  # by factors, of which the channels' is 1
        return how
    sizes = values.constant(node.input[3]).copy()
    sizes[1] *= len(nodes)
    return Merged((*how.slots[:3], sizes))


def _expanded(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    how = _by_channel(nodes, values)
    node = nodes[0]
    shape = values.specs[node.output[0]].shape
    if how is None or values.rank(node.input[0]) != len(shape) or not all(isinstance(n, int) for n in shape):
        return None
    wider = np.asarray(shape, dtype=np.int64)
    wider[1] *= len(nodes)
    return Merged((how.slots[0], wider))


def _of_two(nodes: Sequence[NodeProto], values: Values) -> Merged | None:
    """Two inputs: both of the output's channels, or one of them a number that is equal in all branches."""
    channels, rank = values.channels(nodes[0].output[0]), values.rank(nodes[0].output[0])
    slots: list[Slot] = []
    varies = False
    for index in range(2):
        names = _slot(nodes, index)
        if names[0] in values.constants:
            if not values.equal_constants(names) or math.prod(values.constants[names[0]].dims) != 1:
                return None
            slots.append(names[0])
            continue
        if any(name in values.constants or values.channels(name) != channels for name in names):
            return None
        if any(values.rank(name) != rank for name in names):
            return None
        varies = varies or len(set(names)) > 1
        slots.append(Beside(names))
    return Merged(tuple(slots)) if varies else None


_ELEMENTWISE = (
    "Relu Clip Sigmoid HardSigmoid HardSwish LeakyRelu Elu Selu Celu Tanh Softplus Softsign Mish Gelu Erf Exp Sqrt Abs Neg Cast "
    "Identity"
)
_POOLING = "MaxPool AveragePool GlobalAveragePool GlobalMaxPool"
_RULES: dict[str, Callable[[Sequence[NodeProto], Values], Merged | None]] = {
    "Conv": _convolution,
    **dict.fromkeys(f"{_ELEMENTWISE} {_POOLING}".split(), _by_channel),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _of_two),
    "ReduceMean": _spatial_mean,
    "Resize": _resized,
    "Expand": _expanded,
}

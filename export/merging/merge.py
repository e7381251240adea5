"""Rewrites an ONNX graph so that the operations of sites run merged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bmtas.errors import UsageError
from bmtas.extras import require
from export.merging.rules import Beside, Merged, Slot, Stacked, Values
from export.merging.sites import Site, how_merged, require_names
from export.sessions.protocol import Array
from export.stages.part import checked
from export.stages.values import producers, replace_nodes, used

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def merge(model: ModelProto, sites: Sequence[Site]) -> ModelProto:
    """Return the model in which the operations of `sites` run merged; `model` stays as it is.

    Values that merged operations hand to each other stay side by side; they are split where something else reads them, and laid
    side by side where they come apart, so no Split is followed by the Concat that undoes it. Merged nodes are called after their
    branches: `layers.07.a|b.conv.0.1/Conv`. Raises UsageError for sites that overlap, are of another network, or need each
    other; BuildError if the result is no valid model.
    """
    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    named, values = require_names(graph), Values(result)
    unit_of: dict[str, _Unit] = {}
    for site in sites:
        for operation in site.operations:
            how = how_merged(result, operation, named, values)
            unit = _Unit(_joint_name(operation), tuple(named[n] for n in operation), how)
            for name in operation:
                if name in unit_of:
                    raise UsageError(f"two sites merge the node {name!r}; sites that overlap exclude each other")
                unit_of[name] = unit
    writer = _Writer(graph, values)
    for unit in _ordered([unit_of.get(node.name) or _Unit(node.name, (node,), None) for node in graph.node], graph):
        writer.add(unit)
    writer.require([output.name for output in graph.output])
    replace_nodes(graph, writer.nodes)
    reads = set(used(graph.node))
    constants = [i for i in (*graph.initializer, *writer.constants) if i.name in reads]
    kept = [type(constant).FromString(constant.SerializeToString()) for constant in constants]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    made = producers(graph)
    inner = [type(v).FromString(v.SerializeToString()) for v in graph.value_info if v.name in made]
    del graph.value_info[:]
    graph.value_info.extend(inner)
    return checked(result, "the network with merged branches")


@dataclass(frozen=True, eq=False)
class _Unit:
    """What is written at once: one node as it is (`how` is None), or several as one."""

    name: str
    nodes: tuple[NodeProto, ...]
    how: Merged | None


def _joint_name(names: Sequence[str]) -> str:
    """Return `layers.07.a|b.conv/Conv` for `layers.07.a.conv/Conv` and `layers.07.b.conv/Conv`."""
    words = [name.split(".") for name in names]
    if len({len(w) for w in words}) > 1:
        return "|".join(names)
    # A branch's name is the last word before `/` where its layer ends in it: `layers.07.a/Add`.
    split = [[part for word in w for part in _parts(word)] for w in words]
    joint = ["|".join(dict.fromkeys(parts)) for parts in zip(*split, strict=True)]
    return ".".join(joint).replace("./", "/")


def _parts(word: str) -> list[str]:
    head, slash, tail = word.partition("/")
    return [head, f"/{tail}"] if slash else [head]


def _ordered(units: Sequence[_Unit], graph: GraphProto) -> Iterator[_Unit]:
    """Yield each unit once, after all that it reads, otherwise in the order of their first nodes."""
    distinct = list(dict.fromkeys(units))
    made = {value: i for i, unit in enumerate(distinct) for node in unit.nodes for value in node.output if value}
    needs = [{made[v] for node in unit.nodes for v in node.input if v in made} for unit in distinct]
    readers: list[list[int]] = [[] for _ in distinct]
    for i, indices in enumerate(needs):
        for j in indices:
            readers[j].append(i)
    missing = [len(indices) for indices in needs]
    ready = [i for i, count in enumerate(missing) if not count]
    written = 0
    while ready:
        index = heapq.heappop(ready)
        yield distinct[index]
        written += 1
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if written < len(distinct):
        stuck = next(unit.name for unit, count in zip(distinct, missing, strict=True) if count)
        raise UsageError(f"{stuck} cannot be merged: one of its branches needs the result of another")


@dataclass
class _Writer:
    """Collects nodes, splitting values and laying them side by side where it must."""

    graph: GraphProto
    values: Values
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._beside: dict[tuple[str, ...], str] = {}
        # Values that so far exist only beside others: all of those, and who made them.
        self._pending: dict[str, tuple[tuple[str, ...], str]] = {}
        self._taken = {name for node in self.graph.node for name in (node.name, *node.input, *node.output)}
        self._taken |= {value.name for value in (*self.graph.input, *self.graph.initializer)}

    def add(self, unit: _Unit) -> None:
        """Write a unit."""
        if unit.how is None:
            self.require(unit.nodes[0].input)
            self.nodes.append(unit.nodes[0])
            return
        name = self._fresh(unit.name)
        node = type(unit.nodes[0])()
        node.CopyFrom(unit.nodes[0])
        node.name = name
        node.input[:] = [self._input(slot, f"{name}:{i}", unit.name) for i, slot in enumerate(unit.how.slots)]
        outputs = tuple(n.output[0] for n in unit.nodes)
        node.output[0] = self._fresh(f"value.{name}")
        if unit.how.group is not None:
            others = [a for a in unit.nodes[0].attribute if a.name != "group"]
            del node.attribute[:]
            node.attribute.extend([*others, require("onnx", "host").helper.make_attribute("group", unit.how.group)])
        self.nodes.append(node)
        self._beside[outputs] = node.output[0]
        self._pending |= dict.fromkeys(outputs, (outputs, unit.name))

    def require(self, values: Sequence[str]) -> None:
        """See to it that each of `values` exists by itself."""
        for value in values:
            if value not in self._pending:
                continue
            outputs, maker = self._pending[value]
            channels = self.values.channels(value)
            sizes = self._constant(np.full(len(outputs), channels, np.int64), f"{maker}:sizes")
            self._write("Split", maker, [self._beside[outputs], sizes], outputs)
            for output in outputs:
                del self._pending[output]

    def _input(self, slot: Slot, name: str, maker: str) -> str:
        if isinstance(slot, str):
            self.require([slot])
            return slot
        if isinstance(slot, Beside):
            return self._side_by_side(slot.values, maker)
        if isinstance(slot, Stacked):
            return self._stacked(slot.names, name)
        return self._constant(slot, name)

    def _side_by_side(self, values: tuple[str, ...], maker: str) -> str:
        if values not in self._beside:
            self.require(values)
            joint = self._fresh(f"value.{maker}:inputs")
            self._write("Concat", maker, values, (joint,))
            self._beside[values] = joint
        return self._beside[values]

    def _stacked(self, names: tuple[str, ...], name: str) -> str:
        to_array = require("onnx", "host").numpy_helper.to_array
        tensors = [self.values.constants[n] for n in names]
        # Bytes, because NumPy has no bfloat16 of its own.
        raw = b"".join(t.raw_data if t.HasField("raw_data") else to_array(t).tobytes() for t in tensors)
        dims = [tensors[0].dims[0] * len(tensors), *tensors[0].dims[1:]]
        constant = type(tensors[0])(name=self._fresh(name), data_type=tensors[0].data_type, dims=dims, raw_data=raw)
        self.constants.append(constant)
        return str(constant.name)

    def _constant(self, content: Array, name: str) -> str:
        constant = require("onnx", "host").numpy_helper.from_array(content, self._fresh(name))
        self.constants.append(constant)
        return str(constant.name)

    def _write(self, kind: str, maker: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        module = maker.rpartition("/")[0] or maker
        name = self._fresh(f"{module}/{kind}")
        self.nodes.append(require("onnx", "host").helper.make_node(kind, list(inputs), list(outputs), name, axis=1))

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

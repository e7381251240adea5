"""Where branches could be merged: equal operations in the branches that are alive in the same layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bmtas.errors import UsageError
from export.merging.rules import Beside, Merged, Values, is_grouped_anew, merged
from export.stages.values import producers, tasks_of_nodes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Kind = Literal["wide", "grouped"]
_PLACE = re.compile(r"(?P<layer>layers\.\d+|heads)\.(?P<branch>[^./]+)(?P<rest>.*)")
_HEADS = "heads"


@dataclass(frozen=True)
class Site:
    """Operations that could be merged together.

    `operations` are the names of their nodes, one tuple per merged operation, in the order of `branches`. `wide` sites begin with
    convolutions on one common input and hold only what needs no copy and makes no new groups; `grouped` ones hold everything in
    their layers that can be merged. A site of several layers is named after the first and the last.
    """

    layer: str
    branches: tuple[str, ...]
    kind: Kind
    operations: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """Its name in reports: `layers.07.a|b wide`."""
        return f"{self.layer}.{'|'.join(self.branches)} {self.kind}"

    @property
    def nodes(self) -> frozenset[str]:
        """The names of all nodes."""
        return frozenset(name for operation in self.operations for name in operation)


def sites(model: ModelProto) -> list[Site]:
    """Return all sites of `model`, in the order of its layers, the heads last; they may overlap, and then exclude each other.

    Branches belong together if the nodes of their layer are equal in number, order, operation, attributes, wiring and shapes
    of weights (of heads, which end in different numbers of channels: from the first node as far as they are equal), and none needs
    another. Nodes in between that cannot be merged (see `export.merging.rules.merged`), such as the concatenation inside ASPP, are left
    as they are: the values are split before and laid side by side again after them. Raises UsageError if nodes lack names.
    """
    graph = model.graph
    named = require_names(graph)
    values = Values(model)
    behind = ancestors(graph)
    found: list[Site] = []
    whole: list[Site] = []
    for layer, branches in _layers(graph).items():
        for alike in _alike(layer, branches, graph, values):
            if not _independent([branches[b] for b in alike], named, behind):
                continue
            rows = _rows([branches[b] for b in alike])
            for joint in _on_common_inputs(alike, branches, graph):
                operations = _wide(_rows([branches[b] for b in joint]), named, values)
                found += _site(layer, joint, "wide", operations, named)
            operations = tuple(row for row in rows if merged([named[n] for n in row], values))
            if not any(site.operations == operations for site in found):
                new = _site(layer, tuple(alike), "grouped", operations, named)
                found += new
                whole += new if layer != _HEADS else []
    return sorted([*found, *_chains(whole)], key=lambda site: (site.layer.startswith(_HEADS), site.layer))


def require_names(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the nodes by name. Raises UsageError if two share a name, or one has none."""
    producers(graph)
    named = {node.name: node for node in graph.node if node.name}
    if len(named) != len(graph.node):
        raise UsageError(
            "the nodes of the ONNX graph do not all have a name of their own; export it with `bmtas export`"
        )
    return named


def ancestors(graph: GraphProto) -> dict[str, int]:
    """Return, for each node by name, the nodes that it needs, as a set of bits by their index, itself included."""
    made = producers(graph)
    bits: list[int] = []
    for index, node in enumerate(graph.node):
        mask = 1 << index
        for value in node.input:
            mask |= bits[made[value]] if value in made else 0
        bits.append(mask)
    return {node.name: mask for node, mask in zip(graph.node, bits, strict=True)}


Branch = dict[str, str]
"""The nodes of one branch in one layer: their names by what follows the branch's own, in graph order."""
Row = tuple[str, ...]
"""The names of corresponding nodes, one per branch."""


def _layers(graph: GraphProto) -> dict[str, dict[str, Branch]]:
    """Return the branches of each layer, in the order of the tasks that need them: the same order in every layer."""
    order = {output.name: i for i, output in enumerate(graph.output)}
    first: dict[tuple[str, str], int] = {}
    layers: dict[str, dict[str, Branch]] = {}
    for node, tasks in zip(graph.node, tasks_of_nodes(graph), strict=True):
        place = _PLACE.fullmatch(node.name)
        if place and tasks:
            layer, branch, rest = place.group("layer", "branch", "rest")
            layers.setdefault(layer, {}).setdefault(branch, {})[rest] = node.name
            first[layer, branch] = min(order[t] for t in tasks)
    return {
        layer: dict(sorted(branches.items(), key=lambda item: first[layer, item[0]]))
        for layer, branches in layers.items()
    }


def _alike(layer: str, branches: Mapping[str, Branch], graph: GraphProto, values: Values) -> Iterator[list[str]]:
    """Yield the groups of at least two branches that are alike."""
    forms: dict[object, list[str]] = {}
    for branch, nodes in branches.items():
        form = _form(nodes, graph, values)
        forms.setdefault(form[:1] if layer == _HEADS else form, []).append(branch)
    yield from (group for group in forms.values() if len(group) > 1)


def _form(branch: Branch, graph: GraphProto, values: Values) -> tuple[object, ...]:
    """Return what must be equal in branches that are alike, node by node."""
    named = {node.name: node for node in graph.node}
    inside = {value: rest for rest, name in branch.items() for value in named[name].output}
    form = []
    for rest, name in branch.items():
        node = named[name]
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        inputs = []
        for value in node.input:
            spec = values.specs.get(value)
            inputs.append((inside.get(value), (spec.shape, spec.dtype) if spec else None, value in values.constants))
        form.append((rest, node.op_type, str(attributes), tuple(inputs)))
    return tuple(form)


def _rows(branches: Sequence[Branch]) -> list[Row]:
    """Return the names of corresponding nodes, as far as all branches have them in the same order."""
    rows = []
    for items in zip(*(branch.items() for branch in branches), strict=False):
        if len({rest for rest, _ in items}) > 1:
            break
        rows.append(tuple(name for _, name in items))
    return rows


def _on_common_inputs(
    alike: Sequence[str], branches: Mapping[str, Branch], graph: GraphProto
) -> Iterator[tuple[str, ...]]:
    """Yield the groups of at least two branches of which a convolution reads the same value from outside of them."""
    named = {node.name: node for node in graph.node}
    readers: dict[tuple[str, str], list[str]] = {}
    for branch in alike:
        for rest, name in branches[branch].items():
            if named[name].op_type == "Conv":
                readers.setdefault((rest, named[name].input[0]), []).append(branch)
    yield from dict.fromkeys(tuple(group) for group in readers.values() if len(group) > 1)


def _wide(rows: Sequence[Row], named: Mapping[str, NodeProto], values: Values) -> tuple[Row, ...]:
    """Return the rows that are wider convolutions on a common input, and what can follow them channel by channel."""
    together: set[Row] = set()
    operations = []
    for row in rows:
        nodes = [named[name] for name in row]
        how = merged(nodes, values)
        if how is None or is_grouped_anew(nodes[0], how, values):
            continue
        beside = {slot.values for slot in how.slots if isinstance(slot, Beside)}
        if beside <= together:
            operations.append(row)
            together.add(tuple(node.output[0] for node in nodes))
    return tuple(operations)


def _site(
    layer: str,
    branches: tuple[str, ...],
    kind: Kind,
    operations: tuple[Row, ...],
    named: Mapping[str, NodeProto],
) -> list[Site]:
    """Return the site, if it has a convolution: the rest alone is not worth a copy."""
    convolves = any(named[row[0]].op_type == "Conv" for row in operations)
    return [Site(layer, branches, kind, operations)] if convolves else []


def _independent(branches: Sequence[Branch], named: Mapping[str, NodeProto], behind: Mapping[str, int]) -> bool:
    """Return whether no branch needs a node of another."""
    index = {name: 1 << i for i, name in enumerate(behind)}
    own = [sum(index[name] for name in branch.values()) for branch in branches]
    needs = [0] * len(branches)
    for i, branch in enumerate(branches):
        for name in branch.values():
            needs[i] |= behind[name]
    return not any(needs[i] & own[j] for i in range(len(branches)) for j in range(len(branches)) if i != j)


def _chains(whole: Sequence[Site]) -> Iterator[Site]:
    """Yield one site for each run of consecutive layers with the same branches: between them nothing is split."""
    by_branches: dict[tuple[str, ...], list[Site]] = {}
    for site in whole:
        by_branches.setdefault(site.branches, []).append(site)
    for branches, members in by_branches.items():
        runs: list[list[Site]] = []
        for site in sorted(members, key=lambda s: s.layer):
            if runs and _number(site) == _number(runs[-1][-1]) + 1:
                runs[-1].append(site)
            else:
                runs.append([site])
        for run in (run for run in runs if len(run) > 1):
            layer = f"{run[0].layer}-{_number(run[-1]):02d}"
            yield Site(layer, branches, "grouped", tuple(row for site in run for row in site.operations))


def _number(site: Site) -> int:
    return int(site.layer.split(".")[1])


def how_merged(model: ModelProto, operation: Sequence[str], named: Mapping[str, NodeProto], values: Values) -> Merged:
    """Return how the nodes named `operation` become one. Raises UsageError if the model lacks one, or they cannot be merged."""
    for name in operation:
        if name not in named:
            raise UsageError(f"the network has no node {name!r}; take the sites from `sites` of the same network")
    how = merged([named[name] for name in operation], values)
    if how is None:
        raise UsageError(
            f"{', '.join(operation)} cannot be merged: only equal operations with weights of equal shapes can, and none that mixes "
            "channels other than a convolution"
        )
    return how
